"""Norm with the residual before it, without quantization."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import add_norm as module
from deepseek_kernels.ops.add_norm import add_norm, launch, norm, reference
from deepseek_kernels.ops.norm_quantize import norm_quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernels import assert_near
from tests.support.tracing import assert_traceable

F16, F32 = torch.float16, torch.float32
both = pytest.mark.parametrize("run", [reference, launch], ids=["reference", "kernel"])


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = F32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def expected(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rms: bool, offset: bool
) -> torch.Tensor:
    """In float64, by torch's own functions."""
    wide, by = x.double(), weight.double() + (1 if offset else 0)
    if rms:
        found = torch.nn.functional.rms_norm(wide, x.shape[-1:], by, 1e-6)
    else:
        found = torch.nn.functional.layer_norm(wide, x.shape[-1:], by, None, 1e-6)
    return found if bias is None else found + bias.double()


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 9),
    width=st.integers(2, 140),
    seed=st.integers(0, 99),
    rms=st.booleans(),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    offset=st.booleans(),
    dtype=st.sampled_from([F32, F16]),
    kernel=st.booleans(),
)
def test_rows_are_added_and_normalized(
    rows: int, width: int, seed: int, rms: bool, with_bias: bool, with_residual: bool,
    offset: bool, dtype: torch.dtype, kernel: bool,
) -> None:  # fmt: skip
    x = numbers(rows, width, seed=seed, dtype=dtype)
    residual = numbers(rows, width, seed=seed + 1, dtype=dtype) if with_residual else None
    weight = numbers(width, seed=seed + 2)
    bias = numbers(width, seed=seed + 3) if with_bias else None
    run = launch if kernel else reference
    found, total = run(x, residual, weight, bias, rms, 1e-6, offset)
    assert found.dtype == dtype
    assert torch.equal(total, x if residual is None else x + residual)
    assert_near(found, expected(total, weight, bias, rms, offset))


@both
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_what_is_not_finite_poisons_its_row_only(run: Any, bad: float) -> None:
    x = numbers(3, 40)
    x[1, 7] = bad
    found, _ = run(x, None, torch.ones(40), None, True, 1e-6, False)
    assert not bool(found[1].isfinite().all())
    assert bool(found[[0, 2]].isfinite().all())


@both
def test_nothing_in_gives_nothing_out(run: Any) -> None:
    assert run(torch.empty(0, 8), None, torch.ones(8), None, True, 1e-6, True)[0].shape == (0, 8)


def test_the_public_calls_are_the_operations() -> None:
    x, weight = numbers(2, 3, 16, dtype=F16), numbers(16, seed=1)
    assert_near(norm(x, weight, unit_offset=True), expected(x, weight, None, True, True))
    found, total = add_norm(x, x, weight, weight, kind="layer")
    assert torch.equal(total, x + x)
    assert_near(found, expected(total, weight, weight, False, False))


def test_the_offset_holds_for_8_bit_rows_too() -> None:
    x, weight = numbers(4, 32), numbers(32, seed=1)
    values, scales = norm_quantize(x, weight, kind="rms", unit_offset=True)
    wide = values.double() * scales.double()[:, None]
    assert_near(wide, expected(x, weight, None, True, True), 1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm(numbers(2, 8), torch.ones(7)), r"weight: has the shape \[7\]; give \[8\]"),
        (lambda: norm(numbers(2, 8), torch.ones(8), kind="x"), "kind: is 'x'"),  # type: ignore[arg-type]
        (lambda: add_norm(numbers(2, 8), numbers(1, 8), torch.ones(8)), "residual: has the shape"),
        (
            lambda: add_norm(numbers(2, 8), numbers(2, 8, dtype=F16), torch.ones(8)),
            "residual: is torch.float16; convert it to torch.float32",
        ),
    ],
    ids=["weight", "kind", "residual", "residual type"],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()


def test_the_operations_can_be_traced() -> None:
    x, weight = numbers(2, 3, 8), torch.ones(8)
    assert_traceable(module._plain, x, weight, None, True, 1e-6, True)
    assert_traceable(module._added, x, x, weight, weight, False, 1e-6, False)
