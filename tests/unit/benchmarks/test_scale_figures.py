"""The arithmetic of the scale run: percentiles, slopes, worst minutes, and what was full first."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks.scale_figures import (
    OPERATOR,
    REST,
    Look,
    Usage,
    bottleneck,
    growth,
    mean_rate,
    nearest_rank,
    slope_per_hour,
    usage,
    worst_rate,
)

USED = Usage(
    seconds=100.0, cores={OPERATOR: 0.2, "kube-apiserver": 0.3, REST: 0.1}, depth=0.0, busy=1.0,
    reconciles=5.0, reconcile_s=0.2, requests=50.0, request_s=0.01,
)  # fmt: skip


def look(at: float, **changes: Any) -> Look:
    """A look at an operator that does nothing."""
    nothing = Look(
        at=at, rss_mib=100.0, cpu_s={OPERATOR: 1.0}, depth=0.0, busy=0.0, reconciles=0.0,
        reconcile_s=0.0, requests=0.0, request_s=0.0, waited_s=0.0,
    )  # fmt: skip
    return dataclasses.replace(nothing, **changes)


@pytest.mark.parametrize(
    ("count", "percent", "value"),
    [(300, 50, 150), (300, 99, 297), (100, 99, 99), (20, 99, 20), (1, 50, 1), (4, 100, 4)],
)
def test_a_percentile_is_a_value_that_was_measured(count: int, percent: int, value: int) -> None:
    assert nearest_rank([float(n) for n in range(count, 0, -1)], percent) == value


def test_without_values_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="needs values"):
        nearest_rank([], 99)


@pytest.mark.parametrize(
    ("values", "per_hour", "grown"),
    [
        ([100.0] * 5, 0.0, 0.0),
        ([100.0, 101.0, 102.0, 103.0, 104.0], 3600.0, 4.0),
        ([104.0, 103.0, 102.0, 101.0, 100.0], -3600.0, -4.0),
        ([100.0, 102.0, 100.0, 102.0, 100.0], 0.0, 0.0),
    ],
    ids=["flat", "rises", "falls", "up and down is flat"],
)
def test_a_slope_says_where_memory_goes(values: list[float], per_hour: float, grown: float) -> None:
    points = [(1000.0 + number, value) for number, value in enumerate(values)]
    assert slope_per_hour(points) == pytest.approx(per_hour, abs=1e-6)
    assert growth(points) == pytest.approx(grown, abs=1e-9)


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 2.0), (1.0, 3.0)]])
def test_one_moment_has_no_slope(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="two times"):
        slope_per_hour(points)


def test_a_burst_shows_in_the_worst_minute_and_hardly_in_the_mean() -> None:
    # 600 requests within one minute of ten, nothing else.
    looks = [look(float(at), requests=10.0 * min(max(at - 120, 0), 60)) for at in range(0, 601, 5)]
    assert mean_rate(looks) == pytest.approx(1.0)
    assert worst_rate(looks) == pytest.approx(10.0)


def test_a_minute_is_at_least_a_minute() -> None:
    looks = [look(0.0), look(59.0, requests=590.0), look(118.0, requests=590.0)]
    assert worst_rate(looks) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="less than 60 s"):
        worst_rate(looks[:2])


def test_usage_is_what_was_added_between_the_first_and_the_last_look() -> None:
    first = look(10.0, reconciles=100.0, reconcile_s=50.0, requests=1000.0, request_s=5.0, depth=4)
    last = look(
        20.0, reconciles=120.0, reconcile_s=54.0, requests=1200.0, request_s=6.0, waited_s=1.0,
        depth=8.0, busy=2.0, cpu_s={OPERATOR: 9.0},
    )  # fmt: skip
    used = usage([first, last])
    assert used == Usage(
        seconds=10.0, cores={OPERATOR: 0.8}, depth=6.0, busy=1.0, reconciles=2.0,
        reconcile_s=0.2, requests=20.0, request_s=0.01,
    )  # fmt: skip


def test_nothing_done_divides_by_nothing() -> None:
    used = usage([look(0.0), look(5.0)])
    assert (used.reconcile_s, used.request_s) == (0.0, 0.0)
    with pytest.raises(ValueError, match="two looks"):
        usage([look(0.0)])


@pytest.mark.parametrize(
    ("changes", "name", "share"),
    [
        ({}, "nothing was full", 0.3),
        ({"cores": {OPERATOR: 0.95, "etcd": 0.9}}, "the operator's one thread", 0.95),
        (
            {"cores": {OPERATOR: 0.5, "kube-apiserver": 0.9, "etcd": 0.4}},
            "the 2 cores of the machine, most of them kube-apiserver",
            0.9,
        ),
        (
            {"cores": {OPERATOR: 0.5, REST: 1.4}},
            f"the 2 cores of the machine, most of them {REST}",
            0.95,
        ),
        ({"busy": 7.6}, "8 reconciles at a time that wait for the API server", 0.95),
    ],
    ids=["nothing", "the operator", "the machine", "somebody else", "concurrency"],
)
def test_the_first_bottleneck_is_what_was_full(
    changes: dict[str, Any], name: str, share: float
) -> None:
    found = bottleneck(dataclasses.replace(USED, **changes), cores=2, concurrency=8)
    assert (found.name, round(found.share, 3)) == (name, share)
