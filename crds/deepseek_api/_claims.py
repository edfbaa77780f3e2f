"""Reads a pipeline as claims on a budget: weights, demands, floors, caps and costs.

Why it exists: the arithmetic of sharing knows no pipeline, and the meaning of the fields (what an
absent ``replicas`` means, how a type's weight is divided) belongs in one place. Use
``deepseek_api.allocation`` instead of this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from deepseek_api._explaining import BudgetUnit
from deepseek_api._sharing import Claim
from deepseek_api.catalog import Catalog
from deepseek_api.errors import AllocationError
from deepseek_api.suggest import did_you_mean
from deepseek_api.v1alpha1.model import Model
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_api.v1alpha1.scheduler import Scheduler
from deepseek_api.vocabulary import DeviceKind

__all__ = ["budget_of", "claims_of", "model_type", "unknown_model"]


def model_type(model: Model, catalog: Catalog) -> str | None:
    """The type of a model: its own, or its catalog entry's, or None."""
    if model.type is not None:
        return model.type
    entry = catalog.find(model.name)
    return entry.type if entry is not None else None


def claims_of(
    pipeline: ModelPipeline,
    *,
    demands: Mapping[str, int],
    catalog: Catalog,
    default_device: DeviceKind,
) -> list[Claim]:
    """What each model asks of the budget, in the order of the spec.

    Raises:
        AllocationError: a demand is negative or of an unknown model.
    """
    models = pipeline.spec.models
    _check_demands(demands, [model.name for model in models])
    _, unit = budget_of(pipeline.spec.scheduler)
    costs = {
        model.name: 1 if unit is BudgetUnit.REPLICAS else _gpus(model, default_device)
        for model in models
    }
    weights = _weights(
        [(model, model_type(model, catalog)) for model in models if costs[model.name] > 0],
        pipeline.spec.scheduler,
    )
    claims = []
    for model in models:
        scaling = model.autoscaling
        least = scaling.min_replicas if scaling is not None else min(1, model.wanted)
        most = scaling.max_replicas if scaling is not None else model.wanted
        claims.append(
            Claim(
                model=model.name,
                weight=weights.get(model.name, Fraction(0)),
                wanted=model.wanted,
                demand=max(demands.get(model.name, model.wanted), least),
                floor=least,
                cap=max(most, least),
                cost=costs[model.name],
            )
        )
    return claims


def _check_demands(demands: Mapping[str, int], names: Sequence[str]) -> None:
    for name, demand in demands.items():
        if name not in names:
            raise unknown_model(name, names)
        if demand < 0:
            raise AllocationError(
                f"The demand of model '{name}' is {demand}.", hint="Give 0 or a positive number."
            )


def unknown_model(name: str, names: Sequence[str]) -> AllocationError:
    """The error for a model that the pipeline does not have."""
    return AllocationError(
        f"The pipeline has no model '{name}'.",
        hint=did_you_mean(name, names) or f"It has {', '.join(names)}.",
        reason="UnknownModel",
    )


def budget_of(scheduler: Scheduler) -> tuple[int | None, BudgetUnit]:
    """The units to share, None for no limit, and what they are."""
    if scheduler.budget is None:
        return None, BudgetUnit.REPLICAS
    if scheduler.budget.gpus is not None:
        return scheduler.budget.gpus, BudgetUnit.GPUS
    return scheduler.budget.replicas, BudgetUnit.REPLICAS


def _gpus(model: Model, default_device: DeviceKind) -> int:
    if model.gpus is not None:
        return model.gpus
    device = model.device if model.device is not None else default_device
    return 0 if device is DeviceKind.CPU else model.devices_per_replica


def _weights(
    models: Sequence[tuple[Model, str | None]], scheduler: Scheduler
) -> dict[str, Fraction]:
    """The weight of each model: its type's share in proportion to wanted replicas.

    Models outside the budget are not among ``models``: they would take a part of their type's
    share and leave it unused.
    """
    present = {kind for _, kind in models}
    # str() gives the decimal that the user wrote; the float itself is not exactly 0.7.
    by_type = {
        rule.model_type: Fraction(str(rule.weight))
        for rule in scheduler.priority_rules
        if rule.model_type in present
    }
    rest = max(Fraction(0), 1 - sum(by_type.values(), Fraction(0)))
    wanted: dict[str | None, int] = {}
    for model, kind in models:
        group = kind if kind in by_type else None
        wanted[group] = wanted.get(group, 0) + model.wanted
    weights = {}
    for model, kind in models:
        ruled = kind is not None and kind in by_type
        share_of_group = by_type[kind] if ruled and kind is not None else rest
        total = wanted[kind if ruled else None]
        weights[model.name] = share_of_group * model.wanted / total if total else Fraction(0)
    return weights
