"""Rounding weights: how far off they may be, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.quantize import quantize_weight
from deepseek_kernels.weights import QuantizedWeight
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kernels import random_matrix

SCHEMES: dict[str, dict[str, Any]] = {
    "int8": {"scheme": "int8"},
    "int4 symmetric": {"scheme": "int4", "group_size": 32},
    "int4 asymmetric": {"scheme": "int4", "group_size": 64, "symmetric": False},
    "int4 rows": {"scheme": "int4"},
    "fp8": {"scheme": "fp8"},
    "fp8-block": {"scheme": "fp8-block"},
}
schemes = pytest.mark.parametrize("options", SCHEMES.values(), ids=SCHEMES.keys())


def step(weight: QuantizedWeight) -> torch.Tensor:
    """The scale of every element."""
    if weight.scheme == "fp8-block":
        wide = weight.scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
        return wide[: weight.shape[0], : weight.shape[1]]
    return weight.scale.repeat_interleave(weight.shape[1] // weight.scale.shape[1], 1)


@given(
    rows=st.integers(1, 3),
    groups=st.integers(1, 3),
    seed=st.integers(0, 9),
    exponent=st.integers(-30, 30),
    shift=st.sampled_from([0.0, 3.0, -3.0]),
    options=st.sampled_from([o for o in SCHEMES.values() if not o["scheme"].startswith("fp8")]),
)
def test_a_weight_is_off_by_half_a_step_at_most(
    rows: int, groups: int, seed: int, exponent: int, shift: float, options: dict[str, Any]
) -> None:
    dense = (random_matrix(rows, 64 * groups, seed=seed) + shift) * 2.0**exponent
    weight = quantize_weight(dense, **options)
    # A zero point is rounded too, so the ends of an asymmetric range are up to one step off.
    allowed = 1.0 if options.get("symmetric") is False else 0.5
    off = (weight.dequantize(torch.float64) - dense).abs()
    assert bool((off <= step(weight) * (allowed + 1e-4)).all())


@pytest.mark.parametrize("scheme", ["fp8", "fp8-block"])
def test_an_fp8_weight_is_off_by_a_sixteenth_at_most(scheme: Any) -> None:
    dense = random_matrix(130, 150, seed=1)
    weight = quantize_weight(dense, scheme)
    off = (weight.dequantize() - dense).abs()
    # Three bits of mantissa: half a unit is 1/16; the smallest denormal is 2^-9.
    assert bool((off <= torch.maximum(dense.abs() / 16, step(weight) * 2**-10) * (1 + 1e-4)).all())


@schemes
def test_zeros_stay_zeros(options: dict[str, Any]) -> None:
    weight = quantize_weight(torch.zeros(2, 64), **options)
    assert torch.equal(weight.dequantize(), torch.zeros(2, 64))
    assert bool((weight.scale == 1).all())


@schemes
def test_denormal_weights_get_a_normal_scale(options: dict[str, Any]) -> None:
    weight = quantize_weight(torch.full((2, 64), 1e-42), **options)
    assert bool((weight.scale >= torch.finfo(torch.float32).tiny).all())
    assert bool(torch.isfinite(weight.dequantize()).all())


@schemes
def test_the_largest_float32_weights_do_not_overflow(options: dict[str, Any]) -> None:
    largest = torch.finfo(torch.float32).max
    dense = torch.full((1, 64), largest / 2)
    dense[0, ::2] = -largest / 2
    assert bool(torch.isfinite(quantize_weight(dense, **options).dequantize()).all())


@schemes
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(options: dict[str, Any], bad: float) -> None:
    dense = torch.zeros(2, 64)
    dense[1, 5] = bad
    with pytest.raises(KernelArgumentError, match=r"1 of 128 values .* the first at \[1, 5\]"):
        quantize_weight(dense, **options)


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (torch.zeros(2, 3, 4), {"scheme": "int8"}, r"give a float matrix \[N, K\]"),
        (torch.zeros(2, 4, dtype=torch.int8), {"scheme": "int8"}, "weight: is torch.int8"),
        (torch.zeros(2, 48), {"scheme": "int4", "group_size": 32}, "K=48 is not a multiple of 32"),
    ],
    ids=["not a matrix", "integers", "group"],
)
def test_what_cannot_be_rounded_is_named(
    weight: torch.Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        quantize_weight(weight, **options)


def test_an_asymmetric_group_may_span_the_whole_range() -> None:
    """The distance of its ends is more than float32 holds."""
    weight = torch.tensor([-3e38, 3e38]).repeat(2, 16)
    found = quantize_weight(weight, "int4", group_size=32, symmetric=False).dequantize()
    assert float((found - weight).abs().max()) <= 0.07 * 3e38  # half a step
