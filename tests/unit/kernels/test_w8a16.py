"""8-bit weights times wide activations: both kernels agree with float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import w8a16
from deepseek_kernels.quantize import quantize_weight
from deepseek_kernels.weights import QuantizedWeight
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_cases import (
    FEW_TOKENS,
    MANY_TOKENS,
    SMALL_TILES,
    Case,
    check,
    check_strided,
)
from tests.support.kernels import random_matrix

schemes = pytest.mark.parametrize("scheme", ["int8", "fp8"])


@schemes
@pytest.mark.parametrize("case", FEW_TOKENS + MANY_TOKENS, ids=str)
def test_it_agrees_with_float64(case: Case, scheme: str) -> None:
    check(w8a16.launch, w8a16.reference, case, case.weight(scheme=scheme))


@settings(max_examples=12, deadline=None)
@given(
    M=st.integers(1, 34),
    N=st.integers(1, 66),
    K=st.integers(1, 140),
    scheme=st.sampled_from(["int8", "fp8"]),
    split_k=st.integers(1, 3),
    dtype=st.sampled_from([torch.float16, torch.float32]),
)
def test_it_agrees_for_any_shape(
    M: int, N: int, K: int, scheme: str, split_k: int, dtype: torch.dtype
) -> None:
    case = Case(M, N, K, dtype=dtype, split_k=split_k, bias=True)
    check(w8a16.launch, w8a16.reference, case, case.weight(scheme=scheme))


@settings(max_examples=6, deadline=None)
@given(M=st.sampled_from([1, 3, 17]), offset=st.integers(0, 9), gap=st.integers(0, 9))
def test_strides_do_not_matter(M: int, offset: int, gap: int) -> None:
    case = Case(M, 33, 70)
    check_strided(w8a16.launch, case, case.weight(scheme="int8"), offset=offset, gap=gap)


@pytest.mark.parametrize("M", [3, 16], ids=["gemv", "gemm"])
def test_integer_products_are_exact(M: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-127, 128, (33, 70), generator=generator, dtype=torch.int8)
    weight = QuantizedWeight("int8", values, torch.ones(33, 1), (33, 70))
    x = torch.randint(-9, 10, (M, 70), generator=generator).float()
    assert torch.equal(w8a16.launch(x, weight, config=SMALL_TILES), x @ values.float().T)


@pytest.mark.parametrize("M", [1, 9], ids=["gemv", "gemm"])
def test_the_largest_values_do_not_saturate(M: int) -> None:
    values = torch.full((3, 256), 127, dtype=torch.int8)
    weight = QuantizedWeight("int8", values, torch.ones(3, 1), (3, 256))
    y = w8a16.launch(torch.full((M, 256), 255.0), weight, config=SMALL_TILES)
    assert torch.equal(y, torch.full((M, 3), 127.0 * 255 * 256))


@schemes
@pytest.mark.parametrize("M", [1, 9], ids=["gemv", "gemm"])
def test_rows_of_zeros_give_the_bias(M: int, scheme: Any) -> None:
    bias = torch.tensor([1.0, -2.0, 0.5])
    weight = quantize_weight(torch.zeros(3, 64), scheme)
    y = w8a16.launch(random_matrix(M, 64, seed=1), weight, bias, config=SMALL_TILES)
    assert torch.equal(y, bias.expand(M, 3))


@pytest.mark.parametrize("M", [2, 9], ids=["gemv", "gemm"])
def test_nan_in_a_token_stays_in_that_token(M: int) -> None:
    x = random_matrix(M, 64, seed=1)
    weight = quantize_weight(random_matrix(5, 64, seed=2), "int8")
    clean = w8a16.launch(x, weight, config=SMALL_TILES)
    x[1, 7] = torch.nan
    y = w8a16.launch(x, weight, config=SMALL_TILES)
    assert bool(y[1].isnan().all())
    assert torch.equal(y[0], clean[0])


def test_no_tokens_give_no_rows() -> None:
    weight = quantize_weight(random_matrix(5, 64, seed=2), "int8")
    assert w8a16.launch(torch.empty(0, 64), weight).shape == (0, 5)


def test_other_schemes_are_refused() -> None:
    weight = quantize_weight(torch.ones(5, 64), "int4")
    with pytest.raises(KernelArgumentError, match="weight: is int4; give int8 or fp8"):
        w8a16.launch(torch.ones(1, 64), weight)


def test_the_gemv_refuses_too_many_tokens() -> None:
    weight = quantize_weight(torch.ones(5, 64), "int8")
    with pytest.raises(KernelArgumentError, match="M=9 is too much for the GEMV"):
        w8a16.launch(torch.ones(9, 64), weight, gemv=True)
