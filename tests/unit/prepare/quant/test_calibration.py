"""Statistics of inputs: ranges, samples, and passes that fit into memory."""

from __future__ import annotations

import pytest
import torch
from deepseek_api.errors import ConfigurationError, SourceError
from deepseek_engine.prepare.quant.calibration import (
    OBSERVERS,
    SAMPLE_ROWS,
    Calibration,
    InputStatistics,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
    RowSample,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", OBSERVERS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_a_range_lies_within_what_was_seen(name: str, seed: int, cuts: list[int]) -> None:
    rows, observer = random(200, 5, seed=seed), OBSERVERS[name]()
    for part in torch.tensor_split(rows, sorted(cuts)):
        observer.observe(part)
    low, high = observer.range()
    assert bool((low >= rows.amin(0)).all())
    assert bool((high <= rows.amax(0)).all())
    assert bool((low < high).all())


def test_the_largest_range_is_exact_however_the_rows_come() -> None:
    rows, observer = random(5000, 3), MinMaxObserver()
    for part in torch.split(rows, 7):
        observer.observe(part)
    low, high = observer.range()
    assert torch.equal(low, rows.amin(0))
    assert torch.equal(high, rows.amax(0))


def test_percentiles_cut_an_outlier() -> None:
    rows = random(1000, 2)
    rows[3, 0] = 1e6
    observer = PercentileObserver(99.0)
    observer.observe(rows)
    low, high = observer.range()
    assert 2.0 < float(high[0]) < 4.0
    torch.testing.assert_close(high[1], torch.quantile(rows[:, 1], 0.995))
    torch.testing.assert_close(low[1], torch.quantile(rows[:, 1], 0.005))


def test_least_squares_cut_outliers_where_steps_are_coarse_and_keep_them_where_fine() -> None:
    rows = random(1000, 1)
    rows[0] = 12.0
    coarse, fine = MSEObserver(3), MSEObserver(8)
    for observer in (coarse, fine):
        observer.observe(rows)
    assert float(coarse.range()[1]) < 0.7 * 12
    assert float(fine.range()[1]) > 0.9 * 12


@pytest.mark.parametrize("name", OBSERVERS)
def test_nothing_seen_has_no_range(name: str) -> None:
    with pytest.raises(ConfigurationError, match="Nothing was observed"):
        OBSERVERS[name]().range()


@pytest.mark.parametrize("percentile", [50, 101])
def test_a_percentile_must_leave_something(percentile: float) -> None:
    with pytest.raises(ConfigurationError, match=f"range of {percentile} percent"):
        PercentileObserver(percentile)


def test_a_sample_is_bounded_and_fair() -> None:
    """Each of 1,000 rows stays with the chance 50 / 1,000, wherever it came."""
    counts = torch.zeros(1000)
    for seed in range(200):
        sample = RowSample(50, seed=seed)
        for part in torch.split(torch.arange(1000.0)[:, None], 64):
            sample.add(part)
        assert len(sample.rows) == 50
        counts[sample.rows[:, 0].long()] += 1
    assert sample.seen == 1000
    for part in torch.split(counts, 250):  # 2,500 expected, with a deviation of about 44
        assert 2300 < float(part.sum()) < 2700


def test_fewer_rows_than_the_limit_are_all_kept() -> None:
    sample = RowSample(50)
    sample.add(random(3, 2))
    sample.add(random(4, 2, seed=1))
    assert torch.equal(sample.rows, torch.cat([random(3, 2), random(4, 2, seed=1)]))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 2))


def test_statistics_are_those_of_all_inputs_of_a_layer() -> None:
    module, feeds = small(), [random(5, 16, seed=1), random(2, 3, 16, seed=2)]
    layers, columns = {"0": module.get_submodule("0")}, {"0": 16}
    found = Calibration(feeds).collect(module, layers, columns, hessian=True)["0"]
    rows = torch.cat([feed.reshape(-1, 16) for feed in feeds])
    assert found.count == 11
    assert found.hessian is not None
    torch.testing.assert_close(found.hessian, rows.t() @ rows)
    torch.testing.assert_close(found.absolute, rows.abs().sum(0))
    torch.testing.assert_close(found.squares, rows.square().sum(0))
    torch.testing.assert_close(found.peak(), rows.abs().amax(0))
    assert not module.get_submodule("0")._forward_pre_hooks


@pytest.mark.parametrize(
    "feed",
    [
        pytest.param(random(2, 16), id="tensor"),
        pytest.param((random(2, 16),), id="arguments"),
        pytest.param({"input": random(2, 16)}, id="keyword arguments"),
    ],
)
def test_feeds_have_three_forms(feed: object) -> None:
    module = small()
    found = Calibration([feed]).collect(
        module, {"3": module.get_submodule("3")}, {"3": 4}, hessian=False
    )
    assert found["3"].count == 2
    assert found["3"].hessian is None


def test_layers_are_divided_into_passes_that_fit() -> None:
    layers = {str(number): nn.Linear(64, 1) for number in range(5)}
    columns = dict.fromkeys(layers, 64)
    each = InputStatistics.nbytes(64, hessian=True)
    assert each >= 64 * 64 * 4 + SAMPLE_ROWS * 64 * 4

    def passes(memory: int) -> list[int]:
        calibration = Calibration([0], memory_bytes=memory)
        return [len(group) for group in calibration.passes(layers, columns, hessian=True)]

    assert passes(5 * each) == [5]
    assert passes(5 * each - 1) == [4, 1]
    assert passes(2 * each) == [2, 2, 1]
    assert passes(1) == [1, 1, 1, 1, 1]  # one layer must fit


def test_a_layer_that_no_example_reaches_has_no_statistics() -> None:
    module = small()
    module.add_module("unused", nn.Linear(4, 4))

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = module.get_submodule("0")(x)
            return found

    layers = {name: module.get_submodule(name) for name in ("0", "unused")}
    found = Calibration([random(2, 16)]).collect(
        First(), layers, {"0": 16, "unused": 4}, hessian=False
    )
    assert set(found) == {"0"}


def test_inputs_that_are_not_finite_are_named() -> None:
    module, feed = small(), random(2, 16)
    feed[0, 0] = float("nan")
    with pytest.raises(SourceError, match="inputs of the layer '0' hold NaN") as caught:
        Calibration([feed]).collect(
            module, {"0": module.get_submodule("0")}, {"0": 16}, hessian=False
        )
    assert caught.value.reason == "CalibrationNotFinite"
    assert not module.get_submodule("0")._forward_pre_hooks


@pytest.mark.parametrize(
    ("feeds", "observer", "message"),
    [([], "minmax", "no examples"), ([0], "median", "no observer 'median'")],
)
def test_a_calibration_that_cannot_work_is_refused(
    feeds: list[int], observer: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Calibration(feeds, observer=observer)
