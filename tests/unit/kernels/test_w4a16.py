"""Int4 weights times wide activations: both kernels agree with float64 in every layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import w4a16
from deepseek_kernels.quantize import quantize_weight
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
from tests.support.kernels import assert_near, random_matrix

KINDS: dict[str, dict[str, Any]] = {
    "symmetric row": {"group_size": 0},
    "asymmetric row": {"group_size": 0, "symmetric": False},
}
GROUPS = [(size, symmetric) for size in (32, 64, 128, 256) for symmetric in (True, False)]
layouts = pytest.mark.parametrize("tiled", [False, True], ids=["rows", "tiles"])


@layouts
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("case", FEW_TOKENS + MANY_TOKENS, ids=str)
def test_it_agrees_with_float64(case: Case, options: dict[str, Any], tiled: bool) -> None:
    weight = case.weight(scheme="int4", **options)
    check(w4a16.launch, w4a16.reference, case, weight.tiled() if tiled else weight)


@layouts
@pytest.mark.parametrize(
    ("group_size", "symmetric"),
    GROUPS,
    ids=[f"g{g}{'' if s else ' asymmetric'}" for g, s in GROUPS],
)
@pytest.mark.parametrize("M", [2, 16], ids=["gemv", "gemm"])
def test_each_group_has_its_own_scale(
    M: int, group_size: int, symmetric: bool, tiled: bool
) -> None:
    case = Case(M, 33, group_size * 3 if group_size < 256 else 512)
    dense = random_matrix(case.N, case.K, seed=4)
    # Groups of very different sizes: a wrong scale would be off by far.
    factors = 4.0 ** (torch.arange(case.K // group_size) % 5)
    dense = dense * factors.repeat_interleave(group_size)
    weight = quantize_weight(dense, "int4", group_size=group_size, symmetric=symmetric)
    check(w4a16.launch, w4a16.reference, case, weight.tiled() if tiled else weight)


@settings(max_examples=12, deadline=None)
@given(
    M=st.integers(1, 34),
    N=st.integers(1, 66),
    groups=st.integers(1, 3),
    group_size=st.sampled_from([32, 64, 128]),
    symmetric=st.booleans(),
    tiled=st.booleans(),
    split_k=st.integers(1, 3),
    dtype=st.sampled_from([torch.float16, torch.float32]),
)
def test_it_agrees_for_any_shape(
    M: int,
    N: int,
    groups: int,
    group_size: int,
    symmetric: bool,
    tiled: bool,
    split_k: int,
    dtype: torch.dtype,
) -> None:
    case = Case(M, N, groups * group_size, dtype=dtype, split_k=split_k, bias=True)
    weight = case.weight(scheme="int4", group_size=group_size, symmetric=symmetric)
    check(w4a16.launch, w4a16.reference, case, weight.tiled() if tiled else weight)


@settings(max_examples=6, deadline=None)
@given(M=st.sampled_from([1, 3, 17]), offset=st.integers(0, 9), gap=st.integers(0, 9))
def test_strides_do_not_matter(M: int, offset: int, gap: int) -> None:
    case = Case(M, 33, 70)
    check_strided(w4a16.launch, case, case.weight(scheme="int4"), offset=offset, gap=gap)


@pytest.mark.parametrize("M", [3, 16], ids=["gemv", "gemm"])
def test_integer_products_are_exact(M: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-8, 8, (33, 96), generator=generator).float()
    values[:, ::32] = -8  # with the scale of 1 that the largest value then gets, nothing rounds
    weight = quantize_weight(values, "int4", group_size=32)
    x = torch.randint(-3, 4, (M, 96), generator=generator).float()
    assert torch.equal(w4a16.launch(x, weight, config=SMALL_TILES), x @ values.T)


@pytest.mark.parametrize("M", [1, 9], ids=["gemv", "gemm"])
def test_the_largest_values_do_not_saturate(M: int) -> None:
    weight = quantize_weight(torch.full((3, 256), -8.0), "int4", group_size=128)
    y = w4a16.launch(torch.full((M, 256), 255.0), weight, config=SMALL_TILES)
    assert torch.equal(y, torch.full((M, 3), -8.0 * 255 * 256))


@pytest.mark.parametrize("M", [1, 9], ids=["gemv", "gemm"])
def test_rows_of_zeros_give_the_bias(M: int) -> None:
    weight = quantize_weight(torch.zeros(3, 64), "int4", group_size=64)
    bias = torch.tensor([1.0, -2.0, 0.5])
    y = w4a16.launch(random_matrix(M, 64, seed=1), weight, bias, config=SMALL_TILES)
    assert torch.equal(y, bias.expand(M, 3))


@pytest.mark.parametrize("M", [1, 9], ids=["gemv", "gemm"])
def test_denormal_weights_give_something_finite(M: int) -> None:
    weight = quantize_weight(torch.full((3, 64), 1e-42), "int4", group_size=64)
    assert_near(
        w4a16.launch(torch.ones(M, 64), weight, config=SMALL_TILES), torch.zeros(M, 3), 1e-35
    )


@pytest.mark.parametrize("M", [2, 9], ids=["gemv", "gemm"])
def test_nan_in_a_token_stays_in_that_token(M: int) -> None:
    x = random_matrix(M, 64, seed=1)
    weight = quantize_weight(random_matrix(5, 64, seed=2), "int4", group_size=32)
    clean = w4a16.launch(x, weight, config=SMALL_TILES)
    x[1, 7] = torch.nan
    y = w4a16.launch(x, weight, config=SMALL_TILES)
    assert bool(y[1].isnan().all())
    assert torch.equal(y[0], clean[0])


def test_no_tokens_give_no_rows() -> None:
    weight = quantize_weight(random_matrix(5, 64, seed=2), "int4", group_size=32)
    assert w4a16.launch(torch.empty(0, 64), weight).shape == (0, 5)


def test_the_same_call_gives_the_same_bits() -> None:
    case = Case(5, 33, 384)
    weight = case.weight(scheme="int4", group_size=128)
    first, second = (
        w4a16.launch(case.x(), weight, config=SMALL_TILES),
        w4a16.launch(case.x(), weight, config=SMALL_TILES),
    )
    assert torch.equal(first, second)


WEIGHT = quantize_weight(torch.ones(5, 64), "int4", group_size=32)
APART = replace(WEIGHT, scale=WEIGHT.scale.T.contiguous().T)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        (torch.ones(1, 63), WEIGHT, None, "x: has 63 features; the weight takes K=64"),
        (torch.ones(64), WEIGHT, None, r"x: is torch.float32 \[64\]"),
        (torch.ones(1, 64, dtype=torch.float64), WEIGHT, None, "x: is torch.float64"),
        (torch.ones(1, 64, dtype=torch.int8), WEIGHT, None, "x: is torch.int8"),
        (torch.ones(1, 64), WEIGHT, torch.ones(4), r"bias: is torch.float32 \[4\]"),
        (torch.ones(1, 64), WEIGHT, torch.ones(5, 2)[:, 0], "contiguous float vector"),
        (torch.ones(1, 64), WEIGHT.to("meta"), None, "weight: is on meta and x on cpu"),
        (torch.ones(1, 64), APART, None, "weight: its tensors are not contiguous"),
        (torch.ones(1, 64), quantize_weight(torch.ones(5, 64), "int8"), None, "give int4"),
        (
            torch.ones(1, 48),
            quantize_weight(torch.ones(5, 48), "int4", group_size=48),
            None,
            "groups of 48 are not supported; use 32, 64",
        ),
    ],
    ids=[
        "K",
        "vector",
        "float64",
        "integers",
        "bias",
        "bias apart",
        "device",
        "apart",
        "scheme",
        "group",
    ],
)
def test_what_does_not_fit_is_named(
    x: torch.Tensor, weight: Any, bias: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        w4a16.launch(x, weight, bias)


def test_the_gemv_refuses_too_many_tokens() -> None:
    with pytest.raises(KernelArgumentError, match="M=9 is too much for the GEMV"):
        w4a16.launch(torch.ones(9, 64), WEIGHT, gemv=True)
