"""float8 times float8, with scales for rows and for blocks."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from deepseek_kernels.configuration import KernelConfig
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import fp8_block, fp8_row
from deepseek_kernels.quantize import quantize_weight
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_cases import LARGE, SMALL_TILES, Case, check, check_strided
from tests.support.kernels import FP8_ACTIVATIONS, random_matrix, relative_error

KINDS: dict[str, tuple[ModuleType, Any]] = {
    "rows": (fp8_row, "fp8"),
    "blocks": (fp8_block, "fp8-block"),
}
kinds = pytest.mark.parametrize(("op", "scheme"), KINDS.values(), ids=KINDS.keys())


@kinds
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_it_agrees_with_float64(case: Case, op: ModuleType, scheme: Any) -> None:
    check(op.launch, op.reference, case, case.weight(scheme=scheme))


@settings(max_examples=12, deadline=None)
@given(
    M=st.integers(1, 66),
    N=st.integers(1, 140),
    K=st.integers(1, 270),
    dtype=st.sampled_from([torch.float16, torch.float32]),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_it_agrees_for_any_shape(M: int, N: int, K: int, dtype: torch.dtype, kind: str) -> None:
    op, scheme = KINDS[kind]
    case = Case(M, N, K, dtype=dtype, bias=True)
    check(op.launch, op.reference, case, case.weight(scheme=scheme))


@kinds
@settings(max_examples=5, deadline=None)
@given(offset=st.integers(0, 9), gap=st.integers(0, 9))
def test_strides_do_not_matter(op: ModuleType, scheme: Any, offset: int, gap: int) -> None:
    case = Case(17, 33, 70)
    check_strided(op.launch, case, case.weight(scheme=scheme), offset=offset, gap=gap)


@kinds
def test_small_integers_are_exact(op: ModuleType, scheme: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    # 448 = 7 * 64 makes every scale 1/64, and all products fit in float32.
    x = torch.randint(-7, 8, (5, 256), generator=generator).float()
    values = torch.randint(-7, 8, (33, 256), generator=generator).float()
    x[:, ::128], values[:, ::128] = 7, 7
    weight = quantize_weight(values, scheme)
    assert torch.equal(op.launch(x, weight, config=SMALL_TILES), x @ values.T)


@kinds
def test_the_largest_values_do_not_saturate(op: ModuleType, scheme: Any) -> None:
    weight = quantize_weight(torch.full((3, 256), -448.0), scheme)
    y = op.launch(torch.full((2, 256), 448.0), weight, config=SMALL_TILES)
    assert torch.equal(y, torch.full((2, 3), -(448.0**2) * 256))


def test_each_block_has_its_own_scale() -> None:
    factors = 8.0 ** torch.arange(3).repeat_interleave(128)
    dense = random_matrix(260, 384, seed=1) * factors * factors[:260, None]
    x = random_matrix(5, 384, seed=2) / factors**2
    weight = quantize_weight(dense, "fp8-block")
    expected = fp8_block.reference(x, weight, accumulate=torch.float64)
    actual = fp8_block.launch(x, weight, config=SMALL_TILES)
    assert relative_error(actual, expected) < 1e-5


@kinds
def test_quantizing_activations_costs_little(op: ModuleType, scheme: Any) -> None:
    case = Case(33, 65, 256, dtype=torch.float32)
    weight = case.weight(scheme=scheme)
    exact = case.x().double() @ weight.dequantize(torch.float64).T
    error = relative_error(op.launch(case.x(), weight, config=SMALL_TILES), exact)
    assert 1e-3 < error < FP8_ACTIVATIONS


@kinds
def test_zeros_give_the_bias(op: ModuleType, scheme: Any) -> None:
    bias = torch.tensor([1.0, -2.0, 0.5])
    weight = quantize_weight(torch.zeros(3, 64), scheme)
    y = op.launch(random_matrix(4, 64, seed=1), weight, bias, config=SMALL_TILES)
    assert torch.equal(y, bias.expand(4, 3))
    weight = quantize_weight(random_matrix(3, 64, seed=1), scheme)
    assert torch.equal(op.launch(torch.zeros(4, 64), weight, bias, config=SMALL_TILES), y)


@kinds
def test_nan_stays_in_its_token(op: ModuleType, scheme: Any) -> None:
    x = random_matrix(3, 64, seed=1)
    weight = quantize_weight(random_matrix(5, 64, seed=2), scheme)
    clean = op.launch(x, weight, config=SMALL_TILES)
    x[1, 7] = torch.nan
    y = op.launch(x, weight, config=SMALL_TILES)
    assert bool(y[1].isnan().all())
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


@kinds
def test_no_tokens_give_no_rows(op: ModuleType, scheme: Any) -> None:
    weight = quantize_weight(random_matrix(5, 64, seed=2), scheme)
    assert op.launch(torch.empty(0, 64), weight).shape == (0, 5)


@kinds
def test_other_schemes_are_refused(op: ModuleType, scheme: Any) -> None:
    with pytest.raises(KernelArgumentError, match=f"weight: is int8; give {scheme}"):
        op.launch(torch.ones(1, 64), quantize_weight(torch.ones(5, 64), "int8"))


def test_a_tile_wider_than_a_square_is_refused() -> None:
    weight = quantize_weight(torch.ones(300, 64), "fp8-block")
    with pytest.raises(KernelArgumentError, match="block_n: 256 is wider than a square"):
        fp8_block.launch(torch.ones(1, 64), weight, config=KernelConfig(block_n=256))
