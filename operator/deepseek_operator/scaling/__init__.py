"""How the replicas of every model are to be written, decided from one snapshot.

Why it exists: several writers could meet on ``spec.replicas`` (this operator, its autoscalers,
other people's) and several models share one budget. All of that is decided here, by a pure
function, so that every rule can be tested as a table and simulated. How many replicas a model
deserves is the arithmetic of ``deepseek_api.allocation``; applying the plan is `applying`'s
business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from deepseek_api.allocation import Allocation, allocate
from deepseek_api.catalog import Catalog
from deepseek_api.v1alpha1.pipeline import ModelPipeline

from deepseek_operator.config import OperatorConfig
from deepseek_operator.observed import Observed
from deepseek_operator.plan import Finding, ResolvedModel, ScalingPlan
from deepseek_operator.scaling.bounds import may_grow, scale_of
from deepseek_operator.scaling.budget import Ceilings, ceilings
from deepseek_operator.scaling.conflict import conflict
from deepseek_operator.scaling.demand import Demands, demands_of
from deepseek_operator.scaling.live import LiveModel, owns_replicas
from deepseek_operator.scaling.surge import Surges, count_age, surges

__all__ = ["device_count_age", "owns_replicas", "plan"]

_MOVING_RETRY_S = 2.0
"""Replicas that end are watched; this is for an event that got lost."""


def device_count_age(
    models: Sequence[ResolvedModel],
    *,
    observed: Observed,
    config: OperatorConfig,
    replaced: AbstractSet[str],
) -> float | None:
    """How old the count of spare devices may be that `plan` decides by, seconds.

    Args:
        models: the models with everything filled in.
        observed: what the cluster holds.
        config: resource names of devices.
        replaced: models whose pod template is about to change.

    Returns:
        0: it has to begin now; None: nothing is decided by it.
    """
    ages = (
        count_age(
            LiveModel.of(model, observed),
            replaced=model.name in replaced,
            resources=config.device_resources,
        )
        for model in models
    )
    return min((age for age in ages if age is not None), default=None)


def plan(
    pipeline: ModelPipeline,
    *,
    models: Sequence[ResolvedModel],
    observed: Observed,
    config: OperatorConfig,
    catalog: Catalog,
    now: float,
    wall: str,
    pending: Mapping[str, tuple[int, float]],
) -> ScalingPlan:
    """Decide how the replicas of every model are written.

    Args:
        pipeline: what the user wants.
        models: its models with everything filled in, in the order of the spec.
        observed: what the cluster holds; it must show everything that was written before.
        config: settings of the installation.
        catalog: where types come from that the spec leaves out.
        now: monotonic time, seconds.
        wall: time of day, RFC 3339.
        pending: ``pending_demand`` of the plan before, empty at first.

    Raises:
        AllocationError: the policy is ``static`` and there is a budget.
    """
    live = {model.name: LiveModel.of(model, observed) for model in models}
    conflicts = {
        model.name: found for model in models if (found := conflict(model, observed)) is not None
    }
    demands = demands_of(
        live, observed=observed, pending=pending, now=now, hold_s=config.demand_hold_s
    )
    allocation = allocate(
        pipeline,
        demands=demands.values,
        catalog=catalog,
        default_device=config.default_device,
    )
    growing = {name for name, one in live.items() if may_grow(one, conflicted=name in conflicts)}
    limits = ceilings(allocation, live=live, observed=observed, config=config, growing=growing)
    surging = surges(
        live,
        allocation=allocation,
        limits=limits,
        spare=observed.spare_devices,
        resources=config.device_resources,
        wall=wall,
    )
    return ScalingPlan(
        allocation=allocation,
        scales={
            name: scale_of(
                one,
                granted=allocation.row(name).granted,
                ceiling=limits.by_model.get(name),
                conflicted=name in conflicts,
                max_surge=surging.by_model[name],
            )
            for name, one in live.items()
        },
        moving=limits.moving,
        findings=(*conflicts.values(), *_missing(demands, allocation)),
        pending_demand=demands.pending,
        requeue_after_s=_requeue(demands, limits, surging),
    )


def _missing(demands: Demands, allocation: Allocation) -> Iterable[Finding]:
    for name, problem in demands.missing.items():
        yield problem.finding(name, held=allocation.row(name).demand)


def _requeue(demands: Demands, limits: Ceilings, surging: Surges) -> float | None:
    waits = [demands.requeue_after_s, surging.requeue_after_s]
    if limits.moving:
        waits.append(_MOVING_RETRY_S)
    return min((wait for wait in waits if wait is not None), default=None)
