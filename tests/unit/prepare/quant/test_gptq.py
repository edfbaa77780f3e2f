"""GPTQ and AWQ's rounding on single layers: better than nearest, exact where that is possible."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from deepseek_api.errors import PrecisionError, SourceError
from deepseek_engine.prepare.quant.awq import round_by_importance
from deepseek_engine.prepare.quant.gptq import gptq
from deepseek_engine.prepare.quant.rounding import quantize_weight
from deepseek_engine.quant.blocks import LayerWeight
from deepseek_engine.quant.schemes import SCHEMES
from hypothesis import given, settings
from hypothesis import strategies as st

DEAD = torch.tensor([0, 5, 77])
"""Columns without inputs."""
INT4 = [name for name in SCHEMES if name.startswith("int4")]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(count: int, columns: int, *, seed: int = 0) -> torch.Tensor:
    """Correlated inputs with some loud channels, as activations are."""
    mixing = random(columns // 4, columns, seed=77)
    rows = random(count, columns // 4, seed=seed) @ mixing
    rows += 0.3 * random(count, columns, seed=seed + 1)
    rows[:, :: columns // 8] *= 6
    return rows


def hessian(rows: torch.Tensor) -> torch.Tensor:
    return rows.t() @ rows / len(rows)


def error(weight: torch.Tensor, rounded: LayerWeight, rows: torch.Tensor) -> float:
    exact = rows @ weight.t()
    return float((rows @ rounded.dequantize(torch.float32).t() - exact).norm() / exact.norm())


@pytest.mark.parametrize("act_order", [True, False], ids=["by power", "in order"])
@pytest.mark.parametrize("name", INT4)
def test_outputs_on_new_inputs_are_nearer_than_with_the_nearest_values(
    name: str, act_order: bool
) -> None:
    weight, rows, fresh = random(48, 256), inputs(1024, 256), inputs(512, 256, seed=5)
    found = gptq(weight, hessian(rows), SCHEMES[name], act_order=act_order)
    nearest = quantize_weight(weight, SCHEMES[name])
    assert error(weight, found, rows) < 0.75 * error(weight, nearest, rows)
    assert error(weight, found, fresh) < 0.85 * error(weight, nearest, fresh)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 80),
    name=st.sampled_from(["int4-g32", "int4-g32-asym"]),
    act_order=st.booleans(),
)
def test_no_output_feature_gets_worse_than_nearest_on_what_was_seen(
    seed: int, count: int, name: str, act_order: bool
) -> None:
    """Also with fewer examples than columns, where the statistics are singular."""
    weight, rows = random(8, 64, seed=seed), inputs(count, 64, seed=seed)
    found = gptq(weight, hessian(rows), SCHEMES[name], act_order=act_order)
    nearest = quantize_weight(weight, SCHEMES[name])
    for row in range(8):
        ours = (rows @ (found.dequantize() - weight)[row]).norm()
        theirs = (rows @ (nearest.dequantize() - weight)[row]).norm()
        assert float(ours) <= 1.001 * float(theirs) + 1e-5


@pytest.mark.parametrize("act_order", [True, False], ids=["by power", "in order"])
@pytest.mark.parametrize("name", ["int4-g32", "int4-g64-asym", "int4-g128"])
def test_a_weight_on_the_grid_stays_as_it_is(name: str, act_order: bool) -> None:
    scheme = SCHEMES[name]
    integers = torch.randint(-8, 8, (16, 256), generator=torch.Generator().manual_seed(0))
    integers[:, :: scheme.group_size], integers[:, 1 :: scheme.group_size] = -8, 7
    weight = integers * 0.25
    found = gptq(weight, hessian(inputs(600, 256)), scheme, act_order=act_order)
    assert torch.equal(found.dequantize(torch.float32), weight)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda h: h.index_fill(0, DEAD, 0).index_fill(1, DEAD, 0), id="dead columns"),
        pytest.param(torch.zeros_like, id="no input at all"),
        pytest.param(torch.ones_like, id="all inputs the same"),
        pytest.param(lambda h: h * 1e-12, id="faint inputs"),
        pytest.param(lambda h: h * 1e12, id="loud inputs"),
    ],
)
def test_odd_statistics_still_give_a_weight_that_is_near(
    damage: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    weight = random(16, 128)
    found = gptq(weight, damage(hessian(inputs(300, 128))), SCHEMES["int4-g64"])
    values = found.dequantize(torch.float32)
    assert bool(torch.isfinite(values).all())
    assert float((values - weight).norm() / weight.norm()) < 0.5


def test_dead_columns_are_rounded_to_the_nearest_and_nothing_else_moves_them() -> None:
    weight, rows = random(16, 128), inputs(300, 128)
    rows[:, DEAD] = 0
    found = gptq(weight, hessian(rows), SCHEMES["int4-g128"])
    values, scale = found.dequantize(torch.float32), found.scale
    inside = weight[:, DEAD].abs() < 7 * scale
    off = (values - weight)[:, DEAD].abs()
    assert bool((off[inside] <= 0.51 * scale.expand_as(off)[inside]).all())


def test_statistics_that_are_no_statistics_are_refused_by_name() -> None:
    wrong = -torch.eye(128)
    with pytest.raises(SourceError, match=r"layer 'a\.b' give no usable statistics") as caught:
        gptq(random(4, 128), wrong, SCHEMES["int4-g64"], layer="a.b")
    assert caught.value.reason == "CalibrationUseless"


@pytest.mark.parametrize(
    ("weight", "scheme", "kind", "message"),
    [
        pytest.param(torch.full((4, 128), float("nan")), "int4-g64", SourceError,
                     "'a.b' holds NaN", id="not finite"),
        pytest.param(torch.ones(4, 100), "int4-g64", PrecisionError,
                     "K = 100, which is no multiple of the group 64", id="group"),
        pytest.param(torch.ones(4, 128), "int8", PrecisionError,
                     "does not round to 'int8'", id="scheme"),
    ],
)  # fmt: skip
def test_what_cannot_be_rounded_is_refused(
    weight: torch.Tensor, scheme: str, kind: type[Exception], message: str
) -> None:
    statistics = torch.eye(weight.shape[1])
    with pytest.raises(kind, match=message):
        gptq(weight, statistics, SCHEMES[scheme], layer="a.b")


@pytest.mark.parametrize("name", INT4)
def test_ranges_by_importance_are_better_than_nearest_where_inputs_differ(name: str) -> None:
    rows = random(500, 256) * torch.logspace(-2, 1, 256)
    weight = random(32, 256)
    weight[:, ::64] *= 5  # outliers, some of them where inputs are faint
    found = round_by_importance(weight, rows.square().mean(0), SCHEMES[name])
    nearest = quantize_weight(weight, SCHEMES[name])
    assert error(weight, found, rows) < 0.99 * error(weight, nearest, rows)
