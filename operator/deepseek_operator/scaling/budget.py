"""What each model may have at this moment under a budget.

Why it exists: a grant says where replicas go in the end, but a replica that ends still holds its
GPU. So shrinking happens at once, and growing takes only what nobody can still be using. At every
moment the replicas that exist or may come to exist fit the budget, if they did at the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from deepseek_api.allocation import Allocation, AllocationRow, BudgetUnit

from deepseek_operator.config import OperatorConfig
from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.scaling.live import (
    LiveModel,
    live_surge,
    mapping,
    model_of,
    replaces_pods,
    replicas_of,
)
from deepseek_operator.scaling.quantity import parse_quantity

__all__ = ["Ceilings", "ceilings", "upper_bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The most replicas that models may be given now."""

    by_model: Mapping[str, int]
    """Replicas by model; a model that is not here lies outside the budget."""
    free: int
    """Units of the budget that nobody uses or is about to use."""
    moving: bool
    """Whether a model waits for what others still hold."""


def ceilings(
    allocation: Allocation,
    *,
    live: Mapping[str, LiveModel],
    observed: Observed,
    config: OperatorConfig,
    growing: AbstractSet[str],
) -> Ceilings:
    """How far each model may go towards its grant now.

    Args:
        allocation: the grants.
        live: models by name.
        observed: the snapshot; Deployments of models that left the spec count until they are gone.
        config: resource names of devices.
        growing: models whose replicas may be raised; the others keep at most what they have.
    """
    if allocation.budget is None:
        return Ceilings(by_model={}, free=0, moving=False)
    devices = frozenset(config.device_resources.values())
    unit = allocation.unit
    costs = {
        name: max(allocation.row(name).cost, _live_cost(one.deployment, unit, devices))
        for name, one in live.items()
    }
    free = allocation.budget - sum(costs[name] * _held(one) for name, one in live.items())
    free -= _held_by_others(observed, known=live.keys(), unit=unit, devices=devices)
    found: dict[str, int] = {}
    moving = False
    for row in sorted(allocation.rows, key=_by_weight_then_name):
        if row.cost == 0:
            continue
        present = upper_bound(live[row.model].deployment, live[row.model].autoscaler)
        found[row.model] = min(row.granted, present)
        if row.granted > present and row.model in growing:
            more = min(row.granted - present, max(0, free) // row.cost)
            found[row.model] += more
            free -= more * row.cost
            moving = moving or found[row.model] < row.granted
    return Ceilings(by_model=found, free=max(0, free), moving=moving)


def upper_bound(deployment: K8sObject | None, autoscaler: K8sObject | None) -> int:
    """The replicas that a Deployment may have without another change by the operator."""
    most = mapping(autoscaler.get("spec")).get("maxReplicas") if autoscaler is not None else None
    return max(replicas_of(deployment), int(most or 0))


def _by_weight_then_name(row: AllocationRow) -> tuple[object, ...]:
    return -row.weight, row.model


def _held(live: LiveModel) -> int:
    """Replicas that exist, end, or may be started by others than the operator."""
    return _pods_of(live.deployment, live.autoscaler, live.pods)


def _pods_of(
    deployment: K8sObject | None, autoscaler: K8sObject | None, pods: Iterable[K8sObject]
) -> int:
    bound = upper_bound(deployment, autoscaler)
    started = 0
    if deployment is not None:
        # A Deployment that was lowered keeps its pods until its controller has looked at it.
        started = int(mapping(deployment.get("status")).get("replicas") or 0)
        if replaces_pods(deployment):
            bound += live_surge(deployment)
    ending = [bool(pod["metadata"].get("deletionTimestamp")) for pod in pods]
    running = sum(
        not ends and mapping(pod.get("status")).get("phase") not in ("Succeeded", "Failed")
        for pod, ends in zip(pods, ending, strict=True)
    )
    return max(bound, started, running) + sum(ending)


def _held_by_others(
    observed: Observed, *, known: AbstractSet[str], unit: BudgetUnit, devices: AbstractSet[str]
) -> int:
    """Units of models that are not in the spec any more."""
    pods: dict[str, list[K8sObject]] = {}
    for pod in observed.pods:
        if (name := model_of(pod)) is not None and name not in known:
            pods.setdefault(name, []).append(pod)
    used = 0
    for (kind, name), item in observed.children.items():
        owner = model_of(item)
        if kind == "Deployment" and owner is not None and owner not in known:
            autoscaler = observed.child("HorizontalPodAutoscaler", name)
            count = _pods_of(item, autoscaler, pods.pop(owner, ()))
            used += count * _live_cost(item, unit, devices)
    for rest in pods.values():
        used += sum(1 if unit is BudgetUnit.REPLICAS else _devices(pod, devices) for pod in rest)
    return used


def _live_cost(deployment: K8sObject | None, unit: BudgetUnit, devices: AbstractSet[str]) -> int:
    """Units of a replica as it runs; an edited spec changes it only with the pods."""
    if deployment is None:
        return 0
    if unit is BudgetUnit.REPLICAS:
        return 1
    return _devices(mapping(mapping(deployment.get("spec")).get("template")), devices)


def _devices(pod: Mapping[str, object], resources: AbstractSet[str]) -> int:
    total = 0
    for container in mapping(pod.get("spec")).get("containers") or ():
        limits = mapping(mapping(container.get("resources")).get("limits"))
        total += sum(int(parse_quantity(limits.get(name, 0)) or 0) for name in resources)
    return total
