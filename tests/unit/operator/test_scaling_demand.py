"""What an autoscaled model demands, and from when on it counts."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_api.v1alpha1.conditions import ConditionReason, ConditionType
from deepseek_operator.observed import K8sObject
from deepseek_operator.scaling.demand import held_demand
from deepseek_operator.scaling.formula import wished_replicas
from deepseek_operator.scaling.quantity import parse_quantity

from tests.support.scaling import (
    CPU_METRIC,
    autoscaler,
    cpu,
    decide,
    deployment,
    fixed,
    observe,
    pipeline,
    scaled,
)

MISSING = {"type": ""}


def demand(
    *children: K8sObject,
    model: dict[str, Any] | None = None,
    previous: int | None = None,
    held: bool = True,
) -> int:
    """The demand of model ``a``; ``held``: what was reported has held long enough."""
    observed = observe(*children, previous=None if previous is None else {"a": previous})
    wanted = pipeline(model or scaled("a"))
    first = decide(wanted, observed, now=0)
    again = decide(wanted, observed, now=1000 if held else 1, pending=first.pending_demand)
    return again.allocation.row("a").demand


@pytest.mark.parametrize(
    ("model", "live", "expected"),
    [
        (scaled("a"), None, 1),
        (scaled("a", 3), None, 3),
        (scaled("a", 1, replicas=4), None, 4),
        (scaled("a"), 5, 5),
        (scaled("a", 2, replicas=6), 5, 6),
        (scaled("a"), 0, 1),
    ],
)
def test_without_an_autoscaler_the_demand_is_the_largest_of_live_floor_and_wanted(
    model: dict[str, Any], live: int | None, expected: int
) -> None:
    children = [] if live is None else [deployment("a", live)]
    assert demand(*children, model=model) == expected
    assert demand(*children, autoscaler("a"), model=model) == expected, "not synced yet"


def test_without_an_autoscaler_a_change_counts_at_once() -> None:
    assert demand(deployment("a", 3), previous=8, held=False) == 3


def test_the_demand_is_what_the_autoscaler_desires() -> None:
    assert demand(deployment("a", 2), autoscaler("a", desired=5), previous=2) == 5


def test_an_autoscaler_that_is_off_because_there_are_no_replicas_says_nothing() -> None:
    off = autoscaler(
        "a", desired=2, current=0, active="False", active_reason="ScalingDisabled", values=[]
    )
    plan = decide(pipeline(scaled("a", 1, replicas=3)), observe(deployment("a", 0), off))
    assert plan.allocation.row("a").demand == 3
    assert plan.findings == ()


@pytest.mark.parametrize(
    ("previous", "utilization", "expected"),
    [(3, 140, 6), (9, 140, 9), (None, 140, 6), (3, 70, 3), (3, 71, 4)],
)
def test_at_its_bound_the_demand_is_computed_and_never_falls(
    previous: int | None, utilization: int, expected: int
) -> None:
    limited = autoscaler("a", most=3, desired=3, at_bound=True, values=[cpu(utilization)])
    assert demand(deployment("a", 3), limited, previous=previous) == expected


def test_at_its_bound_without_a_computable_metric_the_demand_holds() -> None:
    limited = autoscaler("a", most=3, desired=3, at_bound=True, values=None)
    assert demand(deployment("a", 3), limited, previous=7) == 7


def metric(kind: str, target: dict[str, Any], current: dict[str, Any]) -> tuple[Any, Any]:
    field = kind[0].lower() + kind[1:]
    return {"type": kind, field: {"target": target}}, {"type": kind, field: {"current": current}}


@pytest.mark.parametrize(
    ("kind", "target", "current", "expected"),
    [
        ("Resource", {"averageUtilization": 70}, {"averageUtilization": 105}, 6),
        ("Resource", {"averageValue": "1Gi"}, {"averageValue": "512Mi"}, 2),
        ("ContainerResource", {"averageUtilization": 50}, {"averageUtilization": 100}, 8),
        ("Pods", {"averageValue": "10"}, {"averageValue": "12500m"}, 5),
        ("External", {"value": "1k"}, {"value": "1500"}, 6),
        ("External", {"averageValue": "30"}, {"averageValue": "31"}, 5),
        ("Object", {"value": "2"}, {"value": "6"}, 12),
        ("Pods", {"averageValue": "0"}, {"averageValue": "1"}, None),
        ("Pods", {"averageValue": "ten"}, {"averageValue": "1"}, None),
        ("Pods", {"averageValue": "10"}, {}, None),
        ("Other", {"value": "10"}, {"value": "10"}, None),
    ],
)
def test_the_wish_of_four_replicas_is_their_count_times_value_over_target(
    kind: str, target: dict[str, Any], current: dict[str, Any], expected: int | None
) -> None:
    wanted, shown = metric(kind, target, current)
    scaler = autoscaler("a", desired=4, metrics=[wanted], values=[shown])
    assert wished_replicas(scaler) == expected


def test_metrics_are_matched_by_index_and_the_largest_wish_counts() -> None:
    other = metric("Pods", {"averageValue": "1"}, {"averageValue": "3"})
    scaler = autoscaler("a", desired=2, metrics=[CPU_METRIC, other[0]], values=[cpu(70), other[1]])
    assert wished_replicas(scaler) == 6
    swapped = autoscaler("a", desired=2, metrics=[other[0], CPU_METRIC], values=[cpu(70), other[1]])
    assert wished_replicas(swapped) is None


@pytest.mark.parametrize(
    ("text", "expected"), [("1.5Gi", 3 * 2**29), ("2e3", 2000), ("4E", 4 * 10**18), ("1Q", None)]
)
def test_quantities_are_read_exactly(text: str, expected: int | None) -> None:
    assert parse_quantity(text) == expected


def test_a_missing_metric_holds_the_demand_and_says_which() -> None:
    outage = autoscaler(
        "a",
        desired=2,
        current=4,
        values=[MISSING],
        active="False",
        active_reason="FailedGetResourceMetric",
        message="the server could not find the metric.",
    )
    observed = observe(deployment("a", 4), outage, previous={"a": 4})
    plan = decide(pipeline(scaled("a")), observed)
    assert plan.allocation.row("a").demand == 4
    assert plan.pending_demand == {}
    (finding,) = plan.findings
    assert finding.condition is ConditionType.METRICS_AVAILABLE
    assert finding.reason is ConditionReason.METRIC_MISSING
    assert finding.model == "a"
    assert "metric 1 (Resource cpu)" in finding.message
    assert "stays at 4" in finding.message
    assert "the server could not find the metric." in finding.message


def test_a_metric_outage_never_shrinks_however_long_it_lasts() -> None:
    wanted = pipeline(scaled("a"), fixed("b", 6), budget={"replicas": 6})
    outage = autoscaler(
        "a",
        most=4,
        desired=1,
        current=4,
        values=[MISSING],
        active="False",
        active_reason="FailedGetPodsMetric",
    )
    observed = observe(
        deployment("a", 4, owner="hpa"), deployment("b", 2), outage, previous={"a": 4}
    )
    pending: dict[str, tuple[int, float]] = {}
    start = decide(wanted, observed)
    for second in range(0, 180, 15):
        plan = decide(wanted, observed, now=float(second), pending=pending)
        pending = dict(plan.pending_demand)
        assert plan.scales == start.scales
        assert plan.allocation.row("a").demand == 4


def test_one_missing_metric_lets_the_others_raise_the_demand() -> None:
    partial = autoscaler("a", desired=6, metrics=[CPU_METRIC] * 2, values=[MISSING, cpu(90)])
    assert demand(deployment("a", 4), partial, previous=4) == 6


def test_a_missing_metric_before_the_first_sync_keeps_the_larger_demand() -> None:
    silent = autoscaler("a", active="False", active_reason="FailedGetResourceMetric")
    assert demand(deployment("a", 2), silent, previous=5) == 5
    assert demand(deployment("a", 2), silent) == 2


def test_a_changed_demand_counts_after_it_held() -> None:
    wanted = pipeline(scaled("a"))
    observed = observe(deployment("a", 2), autoscaler("a", desired=5), previous={"a": 2})
    first = decide(wanted, observed, now=100)
    assert first.allocation.row("a").demand == 2
    assert first.pending_demand == {"a": (5, 100)}
    assert first.requeue_after_s == 30
    later = decide(wanted, observed, now=120, pending=first.pending_demand)
    assert later.allocation.row("a").demand == 2
    assert later.requeue_after_s == 10
    done = decide(wanted, observed, now=130, pending=later.pending_demand)
    assert done.allocation.row("a").demand == 5
    saved = observe(deployment("a", 2), autoscaler("a", desired=5), previous={"a": 5})
    after = decide(wanted, saved, now=131, pending=done.pending_demand)
    assert after.pending_demand == {}
    assert after.requeue_after_s is None


def test_a_demand_that_goes_back_does_not_count() -> None:
    wanted = pipeline(scaled("a"))
    back = observe(deployment("a", 2), autoscaler("a", desired=2), previous={"a": 2})
    plan = decide(wanted, back, now=500, pending={"a": (5, 100)})
    assert plan.allocation.row("a").demand == 2
    assert plan.pending_demand == {}


def test_the_first_demand_counts_at_once() -> None:
    assert demand(deployment("a", 1), autoscaler("a", desired=5), held=False) == 5


def test_an_edited_floor_counts_at_once() -> None:
    observed = observe(deployment("a", 2), autoscaler("a", desired=2), previous={"a": 2})
    plan = decide(pipeline(scaled("a", 4)), observed)
    assert plan.allocation.row("a").demand == 4
    assert plan.pending_demand == {}


def test_edited_replicas_count_at_once() -> None:
    observed = observe(deployment("a", 2), previous={"a": 2})
    plan = decide(pipeline(fixed("a", 7)), observed)
    assert plan.scales["a"].replicas == 7


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([(0, 4), (15, 6), (29, 5), (30, 5)], 4),
        ([(0, 1), (10, 0), (30, 0)], 1),
        ([(0, 4), (10, 1), (30, 1)], 2),
        ([(0, 4), (10, 1), (40, 1)], 1),
        ([(0, 4), (10, 2), (30, 4)], 2),
        ([(0, 4), (10, 2), (20, 4), (50, 4)], 4),
    ],
)
def test_what_held_all_the_time_counts(seen: list[tuple[float, int]], expected: int) -> None:
    pending = None
    value = 2
    for now, wish in seen:
        value, pending = held_demand(wish, previous=2, pending=pending, now=now, hold_s=30)
    assert value == expected


def test_an_accepted_demand_survives_a_status_that_could_not_be_written() -> None:
    value, pending = held_demand(5, previous=2, pending=(5, 0), now=30, hold_s=30)
    assert value == 5
    assert held_demand(5, previous=2, pending=pending, now=31, hold_s=30)[0] == 5
