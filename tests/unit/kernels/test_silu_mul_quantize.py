"""SiLU(gate) * up as 8-bit rows in one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import silu_mul_quantize as module
from deepseek_kernels.ops.silu_mul_quantize import launch, reference, silu_mul_quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tracing import assert_traceable

INT8, FP8 = torch.int8, torch.float8_e4m3fn
both = pytest.mark.parametrize("run", [reference, launch], ids=["reference", "kernel"])
types = pytest.mark.parametrize("out_dtype", [INT8, FP8], ids=["int8", "fp8"])


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


@pytest.mark.parametrize("shape", [(1, 1), (3, 33), (2, 5, 70), (130,), (2, 1030)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@types
@both
def test_rows_are_multiplied_and_rounded(
    run: Any, out_dtype: torch.dtype, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    gate, up = numbers(*shape, dtype=dtype), numbers(*shape, seed=1, dtype=dtype)
    values, scales = run(gate, up, out_dtype)
    expected = gate.double() * torch.sigmoid(gate.double()) * up.double()
    assert (values.dtype, scales.dtype) == (out_dtype, torch.float32)
    limit = 127 if out_dtype == INT8 else 448
    largest = expected.abs().amax(-1)
    torch.testing.assert_close(scales.double(), largest / limit, rtol=1e-5, atol=1e-30)
    scales = scales.unsqueeze(-1)
    off = (values.double() * scales.double() - expected).abs()
    rounding = scales.double() * 0.51 if out_dtype == INT8 else expected.abs() / 16 + scales / 1000
    assert bool((off <= rounding).all())


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 140),
    seed=st.integers(0, 99),
    exponent=st.integers(-40, 40),
    out_dtype=st.sampled_from([INT8, FP8]),
)
def test_kernel_and_reference_agree(
    rows: int, width: int, seed: int, exponent: int, out_dtype: torch.dtype
) -> None:
    gate, up = numbers(rows, width, seed=seed), numbers(rows, width, seed=seed + 1) * 2.0**exponent
    values, scales = launch(gate, up, out_dtype)
    expected_values, expected_scales = reference(gate, up, out_dtype)
    torch.testing.assert_close(scales, expected_scales, rtol=1e-6, atol=0)
    apart = (values.float() - expected_values.float()).abs()
    step = 1.0 if out_dtype == INT8 else expected_values.float().abs() / 8 + 2**-9
    assert bool((apart <= step).all())
    assert int((apart > 0).sum()) <= 1 + values.numel() // 50


@both
def test_halves_of_one_tensor_are_taken_as_they_lie(run: Any) -> None:
    joint = numbers(2, 3, 80)
    gate, up = joint.chunk(2, dim=-1)
    values, scales = run(gate, up, INT8)
    apart_values, apart_scales = run(gate.contiguous(), up.contiguous(), INT8)
    assert torch.equal(values, apart_values)
    assert torch.equal(scales, apart_scales)


def test_strides_do_not_matter() -> None:
    gate, up = numbers(40, 6).t(), numbers(6, 80)[:, ::2]
    assert torch.equal(
        launch(gate, up, INT8)[0], launch(gate.contiguous(), up.contiguous(), INT8)[0]
    )


@types
@both
def test_rows_of_zeros_and_of_subnormal_products(run: Any, out_dtype: torch.dtype) -> None:
    gate = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    up = torch.tensor([[1.0, 2.0], [1e-40, 1e-45]])
    values, scales = run(gate, up, out_dtype)
    assert scales.tolist() == [1.0, torch.finfo(torch.float32).smallest_normal]
    assert not values[0].float().any()
    assert bool((values.float() * scales.unsqueeze(-1)).isfinite().all())


@types
@both
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_what_is_not_finite_poisons_its_row_only(
    run: Any, out_dtype: torch.dtype, bad: float
) -> None:
    gate, up = numbers(3, 40), numbers(3, 40, seed=1)
    up[1, 7] = bad
    values, scales = run(gate, up, out_dtype)
    product = values.float() * scales.unsqueeze(-1)
    assert bool(product[1].isnan().all())
    assert bool(product[[0, 2]].isfinite().all())


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (3, 0)], ids=str)
@both
def test_nothing_in_gives_nothing_out(run: Any, shape: tuple[int, ...]) -> None:
    values, scales = run(torch.empty(shape), torch.empty(shape), INT8)
    assert (values.shape, scales.shape) == (shape, shape[:-1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: silu_mul_quantize(numbers(2, 8), numbers(2, 7)),
            r"up: has the shape \[2, 7\]; give \[2, 8\]",
        ),
        (lambda: silu_mul_quantize(numbers(2, 8), numbers(2, 8).half()), "up: is torch.float16"),
        (lambda: silu_mul_quantize(torch.tensor(1.0), torch.tensor(1.0)), "gate: has the shape"),
        (
            lambda: silu_mul_quantize(torch.empty(1, 32769), torch.empty(1, 32769)),
            "N up to 32768",
        ),
        (
            lambda: silu_mul_quantize(numbers(1, 2), numbers(1, 2), out_dtype=torch.int32),
            "out_dtype: is torch.int32; give torch.int8 or torch.float8_e4m3fn",
        ),
    ],
    ids=["shape", "type", "no axis", "wide", "out type"],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()


def test_the_operation_can_be_traced() -> None:
    joint = numbers(2, 3, 16)
    assert_traceable(module._operation, *joint.chunk(2, dim=-1), FP8)
    assert silu_mul_quantize(joint, joint)[0].dtype == INT8
