"""Quantizing tokens: kernel and reference agree bit by bit, and no token disturbs another."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import quantize_activations as quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernels import random_matrix, strided

kinds = pytest.mark.parametrize("kind", get_args(quantize.Kind))
LARGEST = {"int8-tokens": 127.0, "fp8-tokens": 448.0, "fp8-blocks": 448.0}


def assert_same(x: torch.Tensor, kind: quantize.Kind, one_pass: int = 8192) -> None:
    """The kernel's values and scales are the reference's."""
    values, scale = quantize.launch(x, kind, one_pass=one_pass)
    expected_values, expected_scale = quantize.reference(x, kind)
    assert values.dtype == expected_values.dtype
    assert torch.equal(values.float(), expected_values.float())
    assert torch.equal(scale.isnan(), expected_scale.isnan())
    assert torch.equal(scale.nan_to_num(), expected_scale.nan_to_num())


@kinds
@settings(max_examples=15, deadline=None)
@given(
    M=st.integers(1, 40),
    K=st.integers(1, 300),
    exponent=st.integers(-40, 30),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_the_kernel_does_what_the_reference_does(
    kind: quantize.Kind, M: int, K: int, exponent: int, dtype: torch.dtype, seed: int
) -> None:
    x = (random_matrix(M, K, seed=seed) * 2.0**exponent).to(dtype)
    assert_same(x, kind)


@pytest.mark.parametrize("kind", ["int8-tokens", "fp8-tokens"])
@pytest.mark.parametrize("K", [65, 128, 300])
def test_long_tokens_are_read_twice_and_give_the_same(kind: quantize.Kind, K: int) -> None:
    x = random_matrix(3, K, seed=1)
    x[1, 64] = torch.inf
    assert_same(x, kind, one_pass=64)


@kinds
def test_a_value_is_off_by_half_a_step_at_most(kind: quantize.Kind) -> None:
    x = random_matrix(7, 200, seed=3)
    values, scale = quantize.launch(x, kind)
    wide = scale.view(7, -1).repeat_interleave(128 if kind == "fp8-blocks" else 200, 1)[:, :200]
    off = (values.float() * wide - x).abs()
    step = wide if kind == "int8-tokens" else torch.maximum(x.abs() / 8, wide * 2**-9)
    assert bool((off <= 0.5 * step * (1 + 1e-4)).all())


@kinds
def test_the_largest_value_takes_the_whole_range(kind: quantize.Kind) -> None:
    x = torch.tensor([[0.0, -3.0, 1.5]])
    values, scale = quantize.launch(x, kind)
    assert values.float()[0, :2].tolist() == [0.0, -LARGEST[kind]]
    assert float(scale.flatten()[0]) == pytest.approx(3.0 / LARGEST[kind])


def test_ties_are_rounded_to_even() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    assert quantize.launch(x, "int8-tokens")[0].tolist() == [[127, 0, 2, 2, 0, -2]]


@kinds
def test_a_token_of_zeros_has_the_scale_one(kind: quantize.Kind) -> None:
    values, scale = quantize.launch(torch.zeros(2, 130), kind)
    assert not values.float().any()
    assert bool((scale == 1).all())


@kinds
@pytest.mark.parametrize("peak", [1e-45, 1e-40, 1e-37], ids=["smallest", "denormal", "below"])
def test_no_scale_is_denormal(kind: quantize.Kind, peak: float) -> None:
    x = torch.full((1, 5), peak)
    assert_same(x, kind)
    assert bool((quantize.launch(x, kind)[1] >= torch.finfo(torch.float32).tiny).all())


@kinds
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_value_marks_its_token_and_no_other(kind: quantize.Kind, bad: float) -> None:
    x = random_matrix(3, 100, seed=5)
    clean_values, clean_scale = quantize.launch(x, kind)
    x[1, 40] = bad
    assert_same(x, kind)
    values, scale = quantize.launch(x, kind)
    assert bool(scale[1].isnan().all())
    for row in (0, 2):
        assert torch.equal(values[row].float(), clean_values[row].float())
        assert torch.equal(scale[row], clean_scale[row])


@kinds
def test_rows_may_lie_apart(kind: quantize.Kind) -> None:
    x = random_matrix(5, 70, seed=6, dtype=torch.float16)
    assert_same(strided(x), kind)
    assert torch.equal(quantize.launch(strided(x), kind)[1], quantize.launch(x, kind)[1])


@kinds
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)], ids=["no tokens", "no features"])
def test_nothing_gives_nothing(kind: quantize.Kind, shape: tuple[int, int]) -> None:
    values, scales = quantize.launch(torch.empty(shape), kind)
    assert values.shape == shape
    assert torch.equal(scales, torch.ones_like(scales))
    assert all(map(torch.equal, (values, scales), quantize.reference(torch.empty(shape), kind)))


@pytest.mark.parametrize(
    "x", [torch.ones(3), torch.ones(1, 3, dtype=torch.int32)], ids=["vector", "integers"]
)
def test_what_is_no_matrix_of_floats_is_named(x: torch.Tensor) -> None:
    with pytest.raises(KernelArgumentError, match="x: is torch"):
        quantize.launch(x, "int8-tokens")
