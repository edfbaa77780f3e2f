"""Timing in rounds, with a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from deepseek_engine.prepare.measure import cosines, time_interleaved


class Clock:
    """Time that passes only inside calls."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, durations: list[float]) -> Callable[[], None]:
        """A call that takes the given milliseconds, one after the other and then the last again."""

        def run() -> None:
            self.order.append(name)
            self.now += (durations.pop(0) if len(durations) > 1 else durations[0]) / 1e3

        return run


def test_every_call_has_its_turn_in_every_round() -> None:
    clock = Clock()
    calls = {name: clock.call(name, [1.0]) for name in "ab"}
    time_interleaved(calls, rounds=3, clock=clock)
    assert "".join(clock.order) == "aabb" + "ab" * 3  # two to warm up, then rounds


def test_figures_are_median_and_90th_percentile_without_the_warm_up() -> None:
    clock = Clock()
    durations = [500.0, 500.0, *map(float, range(1, 12))]
    timing = time_interleaved({"a": clock.call("a", durations)}, rounds=11, clock=clock)["a"]
    assert timing.median_ms == pytest.approx(6.0)
    assert timing.p90_ms == pytest.approx(10.0)


def test_a_drift_of_the_machine_hits_all_calls_alike() -> None:
    clock = Clock()
    slowing = [1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    calls = {name: clock.call(name, list(slowing)) for name in "ab"}
    timings = time_interleaved(calls, rounds=5, clock=clock)
    assert timings["a"].median_ms == pytest.approx(timings["b"].median_ms)


def test_cosines_compare_row_by_row() -> None:
    first = np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    second = np.array([[0.0, 1.0], [2.0, 2.0], [-1.0, 0.0], [1.0, 0.0]])
    assert cosines(first, second) == pytest.approx([0.0, 1.0, -1.0, 0.0])
