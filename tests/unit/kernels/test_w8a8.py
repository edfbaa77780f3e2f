"""Int8 times int8: sums are exact, and what is rounded is rounded once."""

from __future__ import annotations

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import quantize_activations, w8a8
from deepseek_kernels.ops.scaled_product import multiply
from deepseek_kernels.quantize import quantize_weight
from deepseek_kernels.weights import QuantizedWeight
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_cases import LARGE, SMALL_TILES, Case, check, check_strided
from tests.support.kernels import INT8_ACTIVATIONS, assert_near, random_matrix, relative_error


def int8_values(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, (rows, columns), generator=generator, dtype=torch.int8)


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left [M, K]`` times ``right [N, K]`` transposed, with scales of one."""
    (M, _), N = left.shape, right.shape[0]
    out = torch.empty(M, N)
    one, ones = torch.ones(M), torch.ones(N, 1)
    multiply(left, one, right, ones, None, out, gelu=False, config=SMALL_TILES)
    return out


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_it_agrees_with_float64(case: Case) -> None:
    check(w8a8.launch, w8a8.reference, case, case.weight(scheme="int8"))


@settings(max_examples=12, deadline=None)
@given(
    M=st.integers(1, 66),
    N=st.integers(1, 66),
    K=st.integers(1, 140),
    dtype=st.sampled_from([torch.float16, torch.float32]),
)
def test_it_agrees_for_any_shape(M: int, N: int, K: int, dtype: torch.dtype) -> None:
    case = Case(M, N, K, dtype=dtype, bias=True)
    check(w8a8.launch, w8a8.reference, case, case.weight(scheme="int8"))


@settings(max_examples=6, deadline=None)
@given(M=st.sampled_from([1, 17]), offset=st.integers(0, 9), gap=st.integers(0, 9))
def test_strides_do_not_matter(M: int, offset: int, gap: int) -> None:
    case = Case(M, 33, 70)
    check_strided(w8a8.launch, case, case.weight(scheme="int8"), offset=offset, gap=gap)


@settings(max_examples=10, deadline=None)
@given(M=st.integers(1, 34), N=st.integers(1, 34), K=st.integers(1, 300), seed=st.integers(0, 9))
def test_sums_of_integers_are_exact(M: int, N: int, K: int, seed: int) -> None:
    left, right = int8_values(M, K, seed), int8_values(N, K, seed + 1)
    # 300 products stay below 2^24, which float32 holds exactly.
    assert torch.equal(product(left, right), (left.long() @ right.long().T).float())


@pytest.mark.parametrize(("a", "b"), [(127, 127), (-127, 127), (-127, -127)])
def test_the_largest_values_do_not_saturate(a: int, b: int) -> None:
    K = 1000
    left = torch.full((2, K), a, dtype=torch.int8)
    right = torch.full((3, K), b, dtype=torch.int8)
    assert torch.equal(product(left, right), torch.full((2, 3), float(a * b * K)))


def test_a_sum_at_the_largest_K_fits_in_32_bits() -> None:
    assert w8a8.MAX_K * 127 * 127 < 2**31 <= (w8a8.MAX_K + 1) * 127 * 127


def test_quantizing_activations_costs_little() -> None:
    case = Case(33, 65, 256, dtype=torch.float32)
    weight = case.weight(scheme="int8")
    exact = case.x().double() @ weight.dequantize(torch.float64).T
    error = relative_error(w8a8.launch(case.x(), weight, config=SMALL_TILES), exact)
    assert 1e-4 < error < INT8_ACTIVATIONS


def test_a_token_does_not_depend_on_its_batch_mates() -> None:
    case = Case(5, 33, 70)
    weight, x = case.weight(scheme="int8"), case.x()
    together = w8a8.launch(x, weight, config=SMALL_TILES)
    x[1:] *= 100
    assert torch.equal(w8a8.launch(x, weight, config=SMALL_TILES)[0], together[0])


def test_rows_of_zeros_give_the_bias() -> None:
    bias = torch.tensor([1.0, -2.0, 0.5])
    weight = quantize_weight(torch.zeros(3, 64), "int8")
    y = w8a8.launch(random_matrix(4, 64, seed=1), weight, bias, config=SMALL_TILES)
    assert torch.equal(y, bias.expand(4, 3))


def test_tokens_of_zeros_give_the_bias() -> None:
    weight = quantize_weight(random_matrix(3, 64, seed=1), "int8")
    bias = torch.tensor([1.0, -2.0, 0.5])
    y = w8a8.launch(torch.zeros(4, 64), weight, bias, config=SMALL_TILES)
    assert torch.equal(y, bias.expand(4, 3))


def test_denormal_tokens_give_something_finite() -> None:
    weight = quantize_weight(random_matrix(3, 64, seed=1), "int8")
    y = w8a8.launch(torch.full((2, 64), 1e-42), weight, config=SMALL_TILES)
    assert_near(y, torch.zeros(2, 3), 1e-35)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_value_stays_in_its_token(bad: float) -> None:
    x = random_matrix(3, 64, seed=1)
    weight = quantize_weight(random_matrix(5, 64, seed=2), "int8")
    clean = w8a8.launch(x, weight, config=SMALL_TILES)
    x[1, 7] = bad
    y = w8a8.launch(x, weight, config=SMALL_TILES)
    assert bool(y[1].isnan().all())
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


def test_no_tokens_give_no_rows() -> None:
    weight = quantize_weight(random_matrix(5, 64, seed=2), "int8")
    assert w8a8.launch(torch.empty(0, 64), weight).shape == (0, 5)


def test_the_reference_quantizes_as_the_kernel_does() -> None:
    case = Case(4, 6, 50, dtype=torch.float32)
    weight = case.weight(scheme="int8")
    values, scale = quantize_activations.launch(case.x(), "int8-tokens")
    expected = (values.double() * scale.double()[:, None]) @ weight.dequantize(torch.float64).T
    assert_near(w8a8.reference(case.x(), weight), expected)


def test_other_schemes_are_refused() -> None:
    with pytest.raises(KernelArgumentError, match="weight: is fp8; give int8"):
        w8a8.launch(torch.ones(1, 64), quantize_weight(torch.ones(5, 64), "fp8"))


def test_a_K_whose_sums_may_overflow_is_refused() -> None:
    K = w8a8.MAX_K + 1
    weight = QuantizedWeight("int8", torch.zeros(1, K, dtype=torch.int8), torch.ones(1, 1), (1, K))
    with pytest.raises(KernelArgumentError, match="may overflow 32-bit sums; split it at 133144"):
        w8a8.launch(torch.ones(1, K), weight)
