"""Shares out replicas among the models of a pipeline, and says why.

Why it exists: ``deepseek plan``, the operator and the documentation must give the same numbers
and the same reasons, so there is one pure function without clock, network or floats. It decides
how many replicas; applying them is the operator's business. docs/allocation.md explains it to
users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from deepseek_api._claims import budget_of, claims_of, model_type, unknown_model
from deepseek_api._explaining import BudgetUnit, Explainer, LimitedBy, format_share
from deepseek_api._sharing import Claim, Shares, share
from deepseek_api.catalog import Catalog, builtin_catalog
from deepseek_api.errors import AllocationError
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_api.v1alpha1.scheduler import Policy
from deepseek_api.vocabulary import DeviceKind

__all__ = [
    "Allocation",
    "AllocationRow",
    "BudgetUnit",
    "LimitedBy",
    "allocate",
    "format_share",
    "model_type",
]


@dataclass(frozen=True, slots=True)
class AllocationRow:
    """What one model gets, and why."""

    model: str
    """Name of the model."""
    type: str | None
    """Model type, from the spec or the catalog; None: unknown, so no rule applies."""
    weight: Fraction
    """Share of the budget that the rules give it."""
    demand: int
    """Replicas that it asks for; at least the floor."""
    floor: int
    """Replicas that it gets first."""
    cap: int
    """Replicas that it gets at most; at least the floor."""
    cost: int
    """Units of the budget that one replica uses; 0: outside the budget."""
    entitled: Fraction
    """The exact share, in replicas."""
    granted: int
    """Whole replicas that it gets."""
    limited_by: LimitedBy
    """What kept it from more."""
    explanation: str
    """The reason, one sentence."""

    def to_wire(self) -> dict[str, Any]:
        """The row for JSON; exact shares are text, as in status."""
        return {
            "model": self.model,
            "type": self.type,
            "weight": format_share(self.weight),
            "demand": self.demand,
            "floor": self.floor,
            "cap": self.cap,
            "cost": self.cost,
            "entitled": format_share(self.entitled),
            "granted": self.granted,
            "limitedBy": self.limited_by.value,
            "explanation": self.explanation,
        }


@dataclass(frozen=True, slots=True)
class Allocation:
    """What all models of a pipeline get."""

    rows: tuple[AllocationRow, ...]
    """One per model, in the order of the spec."""
    budget: int | None
    """Units to share, or None for no limit."""
    unit: BudgetUnit
    """What the budget counts."""
    used: int
    """Units that the granted replicas use."""
    floors_fit: bool
    """Whether the budget covers every floor; otherwise condition ``BudgetSufficient`` is False."""
    weights_effective: bool
    """Whether there is a budget to weigh; otherwise condition ``WeightsEffective`` is False."""
    rules_without_model: tuple[str, ...]
    """Types that have a rule and no model; these rules do not count."""

    @property
    def granted(self) -> dict[str, int]:
        """Granted replicas by model."""
        return {row.model: row.granted for row in self.rows}

    def row(self, model: str) -> AllocationRow:
        """The row of a model.

        Raises:
            AllocationError: the pipeline has no such model.
        """
        for row in self.rows:
            if row.model == model:
                return row
        raise unknown_model(model, [row.model for row in self.rows])

    def to_wire(self) -> dict[str, Any]:
        """The allocation for JSON."""
        return {
            "budget": None if self.budget is None else {self.unit.value: self.budget},
            "used": self.used,
            "floorsFit": self.floors_fit,
            "weightsEffective": self.weights_effective,
            "rulesWithoutModel": list(self.rules_without_model),
            "models": [row.to_wire() for row in self.rows],
        }


def allocate(
    pipeline: ModelPipeline,
    *,
    demands: Mapping[str, int] | None = None,
    catalog: Catalog | None = None,
    default_device: DeviceKind = DeviceKind.CPU,
) -> Allocation:
    """Share out replicas among the models of a pipeline.

    Args:
        pipeline: what the user wants.
        demands: current demand by model name, for example from autoscalers; a model that is
            missing here demands what the spec wants.
        catalog: where types come from that the spec leaves out; default: the built-in one.
        default_device: the device of models that name none.

    Raises:
        AllocationError: a demand is negative or of an unknown model, or the policy is ``static``
            and there is a budget.
    """
    scheduler = pipeline.spec.scheduler
    if scheduler.policy is Policy.STATIC and scheduler.budget is not None:
        raise AllocationError(
            "The policy static gives every model what it asks for and cannot keep a budget.",
            hint="Write policy: priority-based, or leave budget out.",
            reason="StaticWithBudget",
        )
    catalog = catalog if catalog is not None else builtin_catalog()
    claims = claims_of(
        pipeline, demands=demands or {}, catalog=catalog, default_device=default_device
    )
    budget, unit = budget_of(scheduler)
    shares = share(claims, budget)
    types = {model.name: model_type(model, catalog) for model in pipeline.spec.models}
    explain = Explainer(claims, shares, budget=budget, unit=unit)
    rows = tuple(_row(claim, shares, explain, type_=types[claim.model]) for claim in claims)
    return Allocation(
        rows=rows,
        budget=budget,
        unit=unit,
        used=sum(row.cost * row.granted for row in rows),
        floors_fit=shares.floors_fit,
        weights_effective=budget is not None,
        rules_without_model=tuple(
            rule.model_type
            for rule in scheduler.priority_rules
            if rule.model_type not in types.values()
        ),
    )


def _row(claim: Claim, shares: Shares, explain: Explainer, *, type_: str | None) -> AllocationRow:
    limit = explain.limit(claim)
    return AllocationRow(
        model=claim.model,
        type=type_,
        weight=claim.weight,
        demand=claim.demand,
        floor=claim.floor,
        cap=claim.cap,
        cost=claim.cost,
        entitled=shares.entitled[claim.model],
        granted=shares.granted[claim.model],
        limited_by=limit,
        explanation=explain.sentence(claim, limit),
    )
