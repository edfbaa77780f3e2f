"""The demand of every autoscaled model, from what its autoscaler reports.

Why it exists: an autoscaler wishes for replicas, but it is silent before its first sync, it cannot
wish for more than its bound, and it forgets what it wanted when a metric fails. The demand is the
wish behind all that. Models without autoscaling demand what the spec wants, so they are not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from deepseek_api.v1alpha1.autoscaling import Autoscaling
from deepseek_api.v1alpha1.conditions import ConditionReason, ConditionType

from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.plan import Finding
from deepseek_operator.scaling.formula import wished_replicas
from deepseek_operator.scaling.live import LiveModel, mapping

__all__ = ["Demands", "MissingMetric", "Reading", "demands_of", "held_demand", "read_demand"]

_SOONEST_S: Final = 1.0
"""A demand that has just been accepted is in status by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingMetric:
    """Metrics without a value."""

    metrics: tuple[str, ...]
    """What is missing, for example ``metric 1 (Resource cpu)``; empty: nobody knows which."""
    reported: str
    """What the autoscaler says about it; may be empty."""

    def finding(self, model: str, *, held: int) -> Finding:
        """What a person must know.

        Args:
            model: name of the model.
            held: the demand that is kept meanwhile, replicas.
        """
        what = ", ".join(self.metrics) or "its metrics"
        said = f" It reports: {self.reported.rstrip('.')}." if self.reported else ""
        return Finding(
            condition=ConditionType.METRICS_AVAILABLE,
            reason=ConditionReason.METRIC_MISSING,
            message=(
                f"The autoscaler of model '{model}' has no value for {what}, so the demand stays "
                f"at {held}.{said} Check that the metrics API serves it."
            ),
            model=model,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The demand of one model at this moment."""

    value: int
    """Replicas."""
    reported: bool
    """Whether an autoscaler said so; only then it has to hold before it counts."""
    missing: MissingMetric | None = None
    """Metrics without a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """The demands of the autoscaled models."""

    values: Mapping[str, int]
    """Demand that counts now, by model."""
    pending: Mapping[str, tuple[int, float]]
    """Changed demands: model to (demand, monotonic time since when)."""
    missing: Mapping[str, MissingMetric]
    """Metrics without a value, by model."""
    requeue_after_s: float | None
    """When the next of the pending demands counts, seconds from now."""


def demands_of(
    live: Mapping[str, LiveModel],
    *,
    observed: Observed,
    pending: Mapping[str, tuple[int, float]],
    now: float,
    hold_s: float,
) -> Demands:
    """The demand of every autoscaled model.

    Args:
        live: models by name.
        observed: the snapshot; its status holds the demands that counted before.
        pending: demands that had not held long enough when it was looked at before.
        now: monotonic time, seconds.
        hold_s: how long a changed demand must hold, seconds.
    """
    before = _previous_demands(observed.pipeline)
    values: dict[str, int] = {}
    waiting: dict[str, tuple[int, float]] = {}
    missing: dict[str, MissingMetric] = {}
    for name, one in live.items():
        scaling = one.model.spec.autoscaling
        if scaling is None:
            continue
        previous = before.get(name)
        reading = read_demand(one, scaling, previous=previous)
        if reading.missing is not None:
            missing[name] = reading.missing
        if previous is None or not reading.reported:
            values[name] = reading.value
            continue
        # An edited floor counts at once, so it must not look like a change of the demand.
        values[name], entry = held_demand(
            max(reading.value, scaling.min_replicas),
            previous=max(previous, scaling.min_replicas),
            pending=pending.get(name),
            now=now,
            hold_s=hold_s,
        )
        if entry is not None:
            waiting[name] = entry
    waits = [max(_SOONEST_S, since + hold_s - now) for _, since in waiting.values()]
    return Demands(
        values=values,
        pending=waiting,
        missing=missing,
        requeue_after_s=min(waits, default=None),
    )


def read_demand(live: LiveModel, scaling: Autoscaling, *, previous: int | None) -> Reading:
    """The demand of one model at this moment.

    Args:
        live: the model and its objects.
        scaling: what the spec says about its autoscaling.
        previous: the demand that counted before, None if there was none.
    """
    assumed = max(live.replicas, scaling.min_replicas, live.model.spec.wanted or 1)
    if live.autoscaler is None:
        return Reading(value=assumed, reported=False)
    status = mapping(live.autoscaler.get("status"))
    desired = int(status.get("desiredReplicas") or 0)
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    missing = _missing_metrics(live.autoscaler, conditions)
    if desired == 0 or live.replicas == 0:
        # Not synced yet, or switched off because there are no replicas.
        known = max(assumed, previous or 0) if missing is not None else assumed
        return Reading(value=known, reported=False, missing=missing)
    if missing is not None:
        kept = assumed if previous is None else previous
        return Reading(value=max(kept, desired), reported=True, missing=missing)
    if _at_the_bound(conditions):
        wish = wished_replicas(live.autoscaler) or 0
        return Reading(value=max(previous or 0, wish, desired), reported=True)
    return Reading(value=desired, reported=True)


def held_demand(
    demand: int,
    *,
    previous: int,
    pending: tuple[int, float] | None,
    now: float,
    hold_s: float,
) -> tuple[int, tuple[int, float] | None]:
    """The demand that counts, and what has to be remembered.

    A demand that keeps moving in one direction has held as far as all of it went: after 4, 6, 5
    the demand was at least 4 all the time, so 4 counts when the time is over.

    Args:
        demand: the demand at this moment.
        previous: the demand that counted before.
        pending: what was remembered before.
        now: monotonic time, seconds.
        hold_s: how long a changed demand must hold, seconds.
    """
    if demand == previous:
        return previous, None
    grows = demand > previous
    value, since = pending if pending is not None else (demand, now)
    if value == previous or (value > previous) != grows:
        value, since = demand, now
    value = min(value, demand) if grows else max(value, demand)
    # An accepted demand stays remembered until status shows it: writing status may fail.
    return (value if now - since >= hold_s else previous), (value, since)


def _previous_demands(pipeline: K8sObject) -> dict[str, int]:
    rows = mapping(pipeline.get("status")).get("allocation") or ()
    return {row["model"]: row["demand"] for row in rows if row.get("demand") is not None}


def _at_the_bound(conditions: Mapping[str, Mapping[str, Any]]) -> bool:
    active = conditions.get("ScalingActive", {})
    limited = conditions.get("ScalingLimited", {})
    return (
        active.get("status") == "True"
        and limited.get("status") == "True"
        and limited.get("reason") == "TooManyReplicas"
    )


def _missing_metrics(
    autoscaler: K8sObject, conditions: Mapping[str, Mapping[str, Any]]
) -> MissingMetric | None:
    active = conditions.get("ScalingActive", {})
    failed = active.get("status") == "False" and active.get("reason") != "ScalingDisabled"
    wanted = mapping(autoscaler.get("spec")).get("metrics") or ()
    current = mapping(autoscaler.get("status")).get("currentMetrics") or ()
    names = tuple(
        _name(index, wanted) for index, metric in enumerate(current) if not metric.get("type")
    )
    if not names and not failed:
        return None
    return MissingMetric(metrics=names, reported=str(active.get("message", "")) if failed else "")


def _name(index: int, wanted: Any) -> str:
    """How a person finds the metric in the spec; people count from one."""
    metric = mapping(wanted[index]) if index < len(wanted) else {}
    kind = str(metric.get("type", ""))
    source = mapping(metric.get(f"{kind[:1].lower()}{kind[1:]}"))
    name = source.get("name") or mapping(source.get("metric")).get("name")
    described = " ".join(str(part) for part in (kind, name) if part)
    return f"metric {index + 1} ({described})" if described else f"metric {index + 1}"
