"""Whether a rollout may start a new replica before an old one goes.

Why it exists: with one replica more than granted a rollout loses no capacity, but without room for
it (in the budget, or a device on a node) it would wait for ever. Replicas that start first use the
budget like any other. Devices come and go, so a rollout that began without a spare one is given
the next that becomes free; counting them costs requests, so it is done only where it decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from deepseek_api.allocation import Allocation

from deepseek_operator.observed import K8sObject
from deepseek_operator.scaling.budget import Ceilings
from deepseek_operator.scaling.live import (
    LiveModel,
    goes_on_replacing,
    live_surge,
    mapping,
    replicas_of,
    rolls_out,
)

__all__ = ["Surges", "count_age", "surges"]

_PATIENCE_S: Final = 10.0
"""A device that has just become free is offered again within this time."""
_RECENT_S: Final = 2.0
"""How old a count of devices may be for a rollout that goes on anyway."""
_NEXT_COUNT_S: Final = 5.0
"""A rollout without a spare device looks for one again after this time: nodes and other people's
pods are not watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surges:
    """``maxSurge`` of every model."""

    by_model: Mapping[str, int]
    """0 or 1 by model."""
    requeue_after_s: float | None
    """When a replica that finds no node counts as stuck, or devices are to be counted again,
    seconds from now."""


def count_age(one: LiveModel, *, replaced: bool, resources: Mapping[str, str]) -> float | None:
    """How old a count of spare devices may be to decide about a model, seconds; None: any.

    Args:
        one: the model.
        replaced: whether its pod template is about to change.
        resources: resource name by kind of device.
    """
    if one.model.gpus == 0 or not resources.get(one.model.device.value) or not one.replicas:
        return None
    if replaced:
        return 0.0
    return _RECENT_S if _may_gain(one) else None


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
        spare: unused devices of the node with most of them, by resource name; None: they were not
            counted, so nothing changes that depends on them.
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
        # Without replicas nothing is replaced, so nothing is kept free for it.
        cost = allocation.row(name).cost if limits.by_model.get(name) else 0
        room = cost <= free and _has_device(one, spare, resources)
        if one.deployment is not None and rolls_out(one.deployment):
            found[name] = live_surge(one.deployment)
            stuck = None if ending else _stuck_since(one.pods)
            if found[name] and stuck is not None:
                left = _PATIENCE_S - (_time(wall) - _time(stuck))
                found[name] = 1 if left > 0 else 0
                waits += [left] if left > 0 else []
            if found[name] or not (one.model.gpus and _may_gain(one)):
                continue
            waits.append(_NEXT_COUNT_S)
        found[name] = int(room)
        free -= cost if room else 0
    return Surges(by_model=found, requeue_after_s=min(waits, default=None))


def _has_device(
    one: LiveModel, spare: Mapping[str, int] | None, resources: Mapping[str, str]
) -> bool:
    resource = resources.get(one.model.device.value)
    # Without a resource name its pods ask for no device, so none can be missing.
    if one.model.gpus == 0 or not resource:
        return True
    if spare is None:
        return one.deployment is not None and live_surge(one.deployment) == 1
    return spare.get(resource, 0) >= one.model.gpus


def _may_gain(one: LiveModel) -> bool:
    """Whether a rollout without a surge can use a device that becomes free.

    Not while one of its replicas has no node: what looks free is what that one is about to take.
    """
    if one.deployment is None or live_surge(one.deployment):
        return False
    present = [pod for pod in one.pods if not pod["metadata"].get("deletionTimestamp")]
    return (
        goes_on_replacing(one.deployment)
        and len(present) >= replicas_of(one.deployment)
        and all(mapping(pod.get("spec")).get("nodeName") for pod in present)
    )


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
