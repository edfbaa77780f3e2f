"""Whether a rollout may start a new replica before an old one goes.

Why it exists: with one replica more than granted a rollout loses no capacity, but without room for
it (in the budget, or a device on a node) it would wait for ever. Replicas that start first use the
budget like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from deepseek_api.allocation import Allocation

from deepseek_operator.observed import K8sObject
from deepseek_operator.plan import ResolvedModel
from deepseek_operator.scaling.budget import Ceilings
from deepseek_operator.scaling.live import LiveModel, live_surge, mapping, rolls_out

__all__ = ["Surges", "surges"]

_PATIENCE_S: Final = 10.0
"""A device that has just become free is offered again within this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surges:
    """``maxSurge`` of every model."""

    by_model: Mapping[str, int]
    """0 or 1 by model."""
    requeue_after_s: float | None
    """When a replica that finds no node counts as stuck, seconds from now."""


def surges(
    live: Mapping[str, LiveModel],
    *,
    allocation: Allocation,
    limits: Ceilings,
    spare: Mapping[str, int] | None,
    resources: Mapping[str, str],
    wall: str,
) -> Surges:
    """``maxSurge`` of every model.

    Args:
        live: models by name.
        allocation: costs and weights.
        limits: what the models may have now, and what is free after that.
        spare: unused devices of the node with most of them, by resource name; None: unknown.
        resources: resource name by kind of device.
        wall: time of day, RFC 3339.
    """
    free = limits.free
    ending = any(
        pod["metadata"].get("deletionTimestamp") for one in live.values() for pod in one.pods
    )
    found: dict[str, int] = {}
    waits: list[float] = []

    def turn(name: str) -> tuple[object, ...]:
        # With one replica, going without means a moment without any; with many it matters less.
        return limits.by_model.get(name, 0), -allocation.row(name).weight, name

    for name in sorted(live, key=turn):
        one = live[name]
        if one.deployment is not None and rolls_out(one.deployment):
            found[name] = live_surge(one.deployment)
            stuck = None if ending else _stuck_since(one.pods)
            if found[name] and stuck is not None:
                left = _PATIENCE_S - (_time(wall) - _time(stuck))
                found[name] = 1 if left > 0 else 0
                waits += [left] if left > 0 else []
            continue
        # Without replicas nothing is replaced, so nothing is kept free for it.
        cost = allocation.row(name).cost if limits.by_model.get(name) else 0
        room = cost <= free and _has_device(one.model, spare, resources)
        found[name] = int(room)
        free -= cost if room else 0
    return Surges(by_model=found, requeue_after_s=min(waits, default=None))


def _has_device(
    model: ResolvedModel, spare: Mapping[str, int] | None, resources: Mapping[str, str]
) -> bool:
    if model.gpus == 0:
        return True
    if spare is None:
        return False
    resource = resources.get(model.device.value)
    # Without a resource name its pods ask for no device, so none can be missing.
    return not resource or spare.get(resource, 0) >= model.gpus


def _stuck_since(pods: tuple[K8sObject, ...]) -> str | None:
    """Since when a pod finds no node, None if every pod has one."""
    times = [
        str(condition.get("lastTransitionTime") or "1970-01-01T00:00:00Z")
        for pod in pods
        for condition in mapping(pod.get("status")).get("conditions") or ()
        if condition.get("type") == "PodScheduled"
        and condition.get("status") == "False"
        and condition.get("reason") == "Unschedulable"
    ]
    return min(times, default=None)


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
