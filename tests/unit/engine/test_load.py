"""The busy share of a sliding window."""

from __future__ import annotations

import pytest
from deepseek_engine.load import LoadMeter
from hypothesis import given
from hypothesis import strategies as st


def test_a_meter_that_saw_nothing_is_idle() -> None:
    assert LoadMeter(5.0).load(100.0) == 0.0


@pytest.mark.parametrize(
    ("spans", "now", "load"),
    [
        pytest.param([(0.0, 5.0)], 5.0, 1.0, id="the whole window"),
        pytest.param([(0.0, 2.0), (3.0, 4.0)], 5.0, 0.6, id="with pauses"),
        pytest.param([(0.0, 5.0)], 7.5, 0.5, id="half of it has left the window"),
        pytest.param([(0.0, 5.0)], 10.2, 0.0, id="all of it has left the window"),
        pytest.param([(0.0, 100.0)], 100.0, 1.0, id="a batch longer than the window"),
        pytest.param([(2.0, 2.0001)], 5.0, 0.00002, id="a short batch"),
    ],
)
def test_the_share_is_that_of_the_window(
    spans: list[tuple[float, float]], now: float, load: float
) -> None:
    meter = LoadMeter(5.0)
    for start, end in spans:
        meter.busy("a", start, end)
    assert meter.load(now) == pytest.approx(load, abs=1e-9)


def test_a_flow_has_its_own_share() -> None:
    meter = LoadMeter(10.0)
    meter.busy("a", 0.0, 2.0)
    meter.busy("b", 2.0, 6.0)
    assert meter.load(10.0, flow="a") == pytest.approx(0.2)
    assert meter.load(10.0, flow="b") == pytest.approx(0.4)
    assert meter.load(10.0, flow="c") == 0.0
    assert meter.load(10.0) == pytest.approx(0.6)


def test_a_batch_that_still_runs_counts_until_now() -> None:
    meter = LoadMeter(5.0)
    assert meter.load(5.0, since=3.0) == pytest.approx(0.4)
    assert meter.load(50.0, since=3.0) == 1.0


def test_a_window_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="above zero"):
        LoadMeter(0.0)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), max_size=60),
    st.floats(0.5, 20.0),
    st.floats(0.0, 1e6),
)
def test_the_share_is_right_to_one_slot_and_the_memory_is_bounded(
    pauses_and_batches: list[tuple[float, float]], window: float, begin: float
) -> None:
    meter, now, spans = LoadMeter(window), begin, []
    for pause, batch in pauses_and_batches:
        spans.append((now + pause, now + pause + batch))
        now = spans[-1][1]
        meter.busy("a", *spans[-1])
    exact = sum(max(0.0, min(e, now) - max(s, now - window)) for s, e in spans) / window
    # Within the oldest slot time counts in proportion, not where it was spent.
    assert meter.load(now) == pytest.approx(exact, abs=1 / 50 + 1e-6)
    assert len(meter._slots) <= 51
