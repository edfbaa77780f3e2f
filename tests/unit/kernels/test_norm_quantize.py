"""Norm, residual and 8-bit rows in one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import norm_quantize as module
from deepseek_kernels.ops.norm_quantize import add_norm_quantize, launch, norm_quantize, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tracing import assert_traceable

INT8, FP8 = torch.int8, torch.float8_e4m3fn
both = pytest.mark.parametrize("run", [reference, launch], ids=["reference", "kernel"])
kinds = pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
types = pytest.mark.parametrize("out_dtype", [INT8, FP8], ids=["int8", "fp8"])


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rms: bool, eps: float = 1e-5
) -> torch.Tensor:
    """The norm in float64, by torch's own functions."""
    shape, wide, scale = x.shape[-1:], x.double(), weight.double()
    offset = None if bias is None else bias.double()
    if not rms:
        return torch.nn.functional.layer_norm(wide, shape, scale, offset, eps)
    result = torch.nn.functional.rms_norm(wide, shape, scale, eps)
    return result if offset is None else result + offset


def assert_quantized(
    values: torch.Tensor, scales: torch.Tensor, expected: torch.Tensor, largest: float
) -> None:
    """Each row has its own largest magnitude, and no number is off by more than its rounding."""
    assert scales.dtype == torch.float32
    torch.testing.assert_close(
        scales.double(), expected.abs().amax(-1) / largest, rtol=2e-5, atol=1e-30
    )
    scales = scales.unsqueeze(-1)
    off = (values.double() * scales.double() - expected).abs()
    half = 0.5 * scales.double() if values.dtype == INT8 else expected.abs() / 16
    smallest = scales.double() * (1e-2 if values.dtype == INT8 else 2**-10 * 1.01)
    assert bool((off <= half + smallest).all())


@pytest.mark.parametrize("shape", [(1, 1), (3, 33), (2, 5, 70), (130,), (2, 1030)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@kinds
@types
@both
def test_rows_are_normalized_and_rounded(
    run: Any, out_dtype: torch.dtype, rms: bool, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x, weight, bias = numbers(*shape, dtype=dtype), numbers(shape[-1], seed=1), numbers(shape[-1])
    values, scales, _ = run(x, None, weight, bias, rms, 1e-5, out_dtype)
    assert values.dtype == out_dtype
    assert scales.shape == shape[:-1]
    expected = norm(x, weight, bias, rms)
    assert_quantized(values, scales, expected, 127 if out_dtype == INT8 else 448)


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 140),
    seed=st.integers(0, 99),
    exponent=st.integers(-12, 12),
    rms=st.booleans(),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    out_dtype=st.sampled_from([INT8, FP8]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_kernel_and_reference_agree(
    rows: int,
    width: int,
    seed: int,
    exponent: int,
    rms: bool,
    with_bias: bool,
    with_residual: bool,
    out_dtype: torch.dtype,
    dtype: torch.dtype,
) -> None:
    x = (numbers(rows, width, seed=seed) * 2.0**exponent).to(dtype)
    residual = numbers(rows, width, seed=seed + 1, dtype=dtype) if with_residual else None
    weight = numbers(width, seed=seed + 2)
    bias = numbers(width, seed=seed + 3) if with_bias else None
    arguments = (x, residual, weight, bias, rms, 1e-5, out_dtype)
    values, scales, total = launch(*arguments)
    expected_values, expected_scales, expected_total = reference(*arguments)
    assert torch.equal(total, expected_total)
    # Sums in another order: a number that lies on the border of two values may fall either way.
    torch.testing.assert_close(scales, expected_scales, rtol=1e-4, atol=1e-7)
    apart = (values.float() - expected_values.float()).abs()
    step = 1.0 if out_dtype == INT8 else expected_values.float().abs() / 8 + 2**-9
    assert bool((apart <= step).all())
    assert int((apart > 0).sum()) <= 1 + values.numel() // 50


@kinds
@both
def test_the_residual_is_added_before_and_given_back(run: Any, rms: bool) -> None:
    x, residual = (numbers(4, 40, seed=seed, dtype=torch.float16) for seed in (1, 2))
    weight = numbers(40, seed=3)
    values, scales, total = run(x, residual, weight, None, rms, 1e-5, INT8)
    assert torch.equal(total, x + residual)
    assert_quantized(values, scales, norm(total, weight, None, rms), 127)


@types
@both
def test_a_row_of_equal_numbers_is_all_zero(run: Any, out_dtype: torch.dtype) -> None:
    values, scales, _ = run(
        torch.full((2, 8), 3.0), None, torch.ones(8), None, False, 1e-5, out_dtype
    )
    assert torch.equal(scales, torch.ones(2))
    assert not values.float().any()


@types
@both
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_what_is_not_finite_poisons_its_row_only(
    run: Any, out_dtype: torch.dtype, bad: float
) -> None:
    x = numbers(3, 40)
    x[1, 7] = bad
    values, scales, _ = run(x, None, torch.ones(40), None, True, 1e-5, out_dtype)
    product = values.float() * scales.unsqueeze(-1)
    assert bool(product[1].isnan().all())
    assert bool(product[[0, 2]].isfinite().all())


@both
def test_int8_is_symmetric_and_reaches_its_end(run: Any) -> None:
    x = torch.tensor([[-1.0, 1.0, 0.25, -0.25], [3.0, -1.0, -1.0, -1.0]])
    values, _, _ = run(x, None, torch.ones(4), None, True, 0.0, INT8)
    assert values.tolist() == [[-127, 127, 32, -32], [127, -42, -42, -42]]


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (3, 0)], ids=str)
@both
def test_nothing_in_gives_nothing_out(run: Any, shape: tuple[int, ...]) -> None:
    width = shape[-1]
    values, scales, _ = run(torch.empty(shape), None, torch.ones(width), None, False, 1e-5, INT8)
    assert values.shape == shape
    assert scales.shape == shape[:-1]


def test_strides_do_not_matter() -> None:
    x = numbers(40, 6).t()
    weight = numbers(80, seed=1)[::2]
    for actual, expected in zip(
        launch(x, x * 2, weight, None, False, 1e-5, INT8),
        reference(x.contiguous(), x * 2, weight, None, False, 1e-5, INT8),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


def test_the_public_calls_are_the_operations() -> None:
    x, weight = numbers(3, 16), numbers(16, seed=1)
    values, scales = norm_quantize(x, weight, kind="rms", out_dtype=FP8)
    assert_quantized(values, scales, norm(x, weight, None, True), 448)
    values, scales, total = add_norm_quantize(x, x, weight, weight, eps=0.1)
    assert torch.equal(total, x + x)
    assert_quantized(values, scales, norm(2 * x, weight, weight, False, 0.1), 127)


X, W = numbers(2, 8), torch.ones(8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm_quantize(X, torch.ones(7)), r"weight: has the shape \[7\]; give \[8\]"),
        (lambda: norm_quantize(X, W, torch.ones(9)), r"bias: has the shape \[9\]; give \[8\]"),
        (lambda: norm_quantize(X, W, kind="batch"), "kind: is 'batch'; give 'layer' or 'rms'"),  # type: ignore[arg-type]
        (lambda: norm_quantize(X, W, out_dtype=torch.uint8), "out_dtype: is torch.uint8; give"),
        (lambda: norm_quantize(X.int(), W), "x: is torch.int32; convert"),
        (lambda: norm_quantize(torch.tensor(1.0), W), r"x: has the shape \[\]; give \[..., N\]"),
        (lambda: norm_quantize(torch.empty(1, 16385), torch.empty(16385)), "N up to 16384"),
        (
            lambda: add_norm_quantize(X, X[:1], W),
            r"residual: has the shape \[1, 8\]; give \[2, 8\]",
        ),
        (lambda: add_norm_quantize(X, X.half(), W), "residual: is torch.float16; convert"),
    ],
    ids=[
        "weight",
        "bias",
        "kind",
        "type",
        "integers",
        "no axis",
        "wide",
        "residual",
        "residual type",
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()


def test_the_operations_can_be_traced() -> None:
    assert_traceable(module._plain, numbers(2, 3, 8), W, None, True, 1e-5, FP8)
    assert_traceable(module._added, numbers(2, 3, 8), numbers(2, 3, 8), W, W, False, 1e-5, INT8)
