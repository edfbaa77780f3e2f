"""Rounding weights: never more than half a step off, exact where the weight is on the grid."""

from __future__ import annotations

import pytest
import torch
from deepseek_api.errors import PrecisionError, SourceError
from deepseek_engine.prepare.quant.rounding import (
    SHRINKS,
    best_grid,
    cast_to,
    quantize_weight,
)
from deepseek_engine.quant.blocks import Int8BlockWeight, LayerWeight
from deepseek_engine.quant.schemes import SCHEMES
from deepseek_kernels.ops.block_quantize import block_quantize
from hypothesis import given, settings
from hypothesis import strategies as st

QUANTIZED = [name for name, scheme in SCHEMES.items() if scheme.quantized]
INT4 = [name for name in QUANTIZED if name.startswith("int4")]


def values(weight: LayerWeight) -> torch.Tensor:
    return weight.dequantize(torch.float32)


def steps_of(weight: LayerWeight, group: int) -> torch.Tensor:
    """The scale of every element of an int4 weight ``[N, K]``."""
    return weight.scale.repeat_interleave(group, 1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", INT4)
@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 3),
    seed=st.integers(0, 10_000),
    size=st.sampled_from([1e-30, 1e-3, 1.0, 1e4, 1e30]),
)
def test_int4_is_at_most_a_step_off(
    name: str, rows: int, groups: int, seed: int, size: float
) -> None:
    scheme = SCHEMES[name]
    weight = random(rows, groups * scheme.group_size, seed=seed) * size
    rounded = quantize_weight(weight, scheme)
    off = (values(rounded) - weight).abs()
    # Half a step inside the range; the largest magnitude may be cut by as much, and bf16 scales
    # and rounded zero points add a little.
    assert bool((off <= 1.1 * steps_of(rounded, scheme.group_size)).all())
    assert float(off.double().norm() / weight.double().norm()) < 0.16


@pytest.mark.parametrize("name", ["int4-g32", "int4-g128"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), lowest=st.sampled_from([-8, -7]), exponent=st.integers(-20, 20))
def test_weights_on_a_symmetric_grid_are_kept_exactly(
    name: str, seed: int, lowest: int, exponent: int
) -> None:
    scheme = SCHEMES[name]
    draw = torch.Generator().manual_seed(seed)
    integers = torch.randint(lowest, 8, (4, 2 * scheme.group_size), generator=draw)
    integers[:, :: scheme.group_size] = lowest  # every group uses its range
    weight = integers * 1.5 * 2.0**exponent  # a scale that bf16 holds
    assert torch.equal(values(quantize_weight(weight, scheme)), weight)


@pytest.mark.parametrize("name", ["int4-g32-asym", "int4-g128-asym"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), zero=st.integers(-8, 7), exponent=st.integers(-20, 20))
def test_weights_on_an_asymmetric_grid_are_kept_exactly(
    name: str, seed: int, zero: int, exponent: int
) -> None:
    scheme = SCHEMES[name]
    draw = torch.Generator().manual_seed(seed)
    integers = torch.randint(-8, 8, (4, 2 * scheme.group_size), generator=draw)
    integers[:, :: scheme.group_size], integers[:, 1 :: scheme.group_size] = -8, 7
    weight = (integers - zero) * 1.25 * 2.0**exponent
    rounded = quantize_weight(weight, scheme)
    assert torch.equal(values(rounded), weight)
    assert rounded.zero_point is not None
    assert bool((rounded.zero_point == zero).all())


@pytest.mark.parametrize("name", ["int8", "int8-block"])
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 70), columns=st.integers(1, 70), seed=st.integers(0, 10_000))
def test_int8_is_at_most_half_a_step_off(name: str, rows: int, columns: int, seed: int) -> None:
    weight = random(rows, columns, seed=seed)
    rounded = quantize_weight(weight, SCHEMES[name])
    step = weight.abs().max() / 127
    assert float((values(rounded) - weight).abs().max()) <= 0.5001 * float(step)
    assert int(rounded.data.abs().max()) == 127


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (65, 70), (1, 129), (130, 3)])
def test_blocks_do_not_care_for_the_shape(rows: int, columns: int) -> None:
    weight = random(rows, columns)
    weight[:, 0] *= 100  # one block's outliers coarsen no other block
    rounded = quantize_weight(weight, SCHEMES["int8-block"])
    assert isinstance(rounded, Int8BlockWeight)
    assert rounded.scale.shape == (-(-rows // 64), -(-columns // 64))
    far = weight[:, 64:]
    assert float((values(rounded)[:, 64:] - far).norm()) <= 0.02 * float(far.norm() + 1e-9)


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(torch.zeros_like, id="zeros"),
        pytest.param(lambda w: torch.full_like(w, 3.0e38), id="largest"),
        pytest.param(lambda w: w.to(torch.bfloat16), id="bf16"),
        pytest.param(lambda w: w.double(), id="fp64"),
        pytest.param(lambda w: torch.full_like(w, -0.25), id="one value"),
    ],
)
def test_degenerate_weights_give_finite_numbers_near_them(name: str, make: object) -> None:
    assert callable(make)
    weight = make(random(70, 256))
    found = values(quantize_weight(weight, SCHEMES[name]))
    assert bool(torch.isfinite(found).all())
    assert float((found - weight.float()).abs().max()) <= 0.15 * float(weight.abs().max())


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_too_small_for_a_scale_become_zeros(name: str) -> None:
    weight = torch.full((70, 256), 1e-41)
    weight[3] = 1.0
    found = values(quantize_weight(weight, SCHEMES[name]))
    assert bool((found[64:] == 0).all()) or "block" in name
    torch.testing.assert_close(found[3], weight[3], rtol=0.04, atol=0)
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_by_name(name: str, value: float) -> None:
    weight = random(8, 128)
    weight[3, 7] = value
    with pytest.raises(SourceError, match=r"layer 'a\.b' holds NaN or infinity"):
        quantize_weight(weight, SCHEMES[name], layer="a.b")


def test_a_group_that_does_not_divide_k_is_refused_by_name() -> None:
    with pytest.raises(PrecisionError, match=r"'a\.b' has K = 200, .* no multiple of the group 64"):
        quantize_weight(random(8, 200), SCHEMES["int4-g64"], layer="a.b")


def test_clipping_outliers_pays_when_columns_differ_in_importance() -> None:
    groups = random(16, 4, 64)
    groups[..., 0] *= 8
    importance = torch.ones(4, 64)
    importance[:, 0] = 1e-3

    def error(shrinks: tuple[float, ...], weighted: bool) -> float:
        grid = best_grid(
            groups, symmetric=True, importance=importance if weighted else None, shrinks=shrinks
        )
        off = (grid.value_of(grid.round(groups)) - groups).square() * importance
        return float(off.sum())

    assert error(SHRINKS, weighted=True) < 0.7 * error((1.0,), weighted=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casting_refuses_to_make_infinities(dtype: torch.dtype) -> None:
    fine = torch.tensor([1.0, -60_000.0])
    assert torch.equal(cast_to(fine, dtype, "x"), fine.to(dtype))
    with pytest.raises(PrecisionError, match="'x' holds numbers that") as caught:
        cast_to(torch.tensor([3.4e38]), dtype, "x")
    assert caught.value.reason == "OutOfRange"


def test_blocks_are_those_of_block_quantize() -> None:
    """One rule: a checkpoint's blocks, and what users get of ``block_quantize``, are the same."""
    weight = random(130, 150)
    weight[:64, :64], weight[64:128, :64] = 0, 1e-40
    rounded = quantize_weight(weight, SCHEMES["int8-block"])
    expected = block_quantize(weight)
    assert torch.equal(rounded.data, expected.values)
    assert torch.equal(rounded.scale, expected.scales)
    assert (float(rounded.scale[0, 0]), float(rounded.scale[1, 0])) == (0, 2.0**-126)


@pytest.mark.parametrize("name", INT4)
def test_groups_that_span_the_whole_range_stay_finite(name: str) -> None:
    """The distance of their ends is more than fp32 holds."""
    weight = torch.tensor([-3e38, 3e38]).repeat(4, 128)
    found = values(quantize_weight(weight, SCHEMES[name]))
    assert float((found - weight).abs().max()) <= 0.07 * 3e38  # half a step
