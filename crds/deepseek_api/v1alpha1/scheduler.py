"""The scheduler of a pipeline: policy, priority weights and budget.

Why it exists: these few fields decide how replicas are shared out; the arithmetic itself is in
``deepseek_api.allocation``.
"""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import AfterValidator, Field

from deepseek_api.base import Float, Int, WireModel
from deepseek_api.v1alpha1.fields import ModelType, list_map, unique_by

__all__ = ["Budget", "Policy", "PriorityRule", "Scheduler"]


class Policy(enum.StrEnum):
    """How replicas are shared out."""

    PRIORITY_BASED = "priority-based"
    """Under a budget, models share it by the weights of their types."""
    STATIC = "static"
    """Every model gets what it asks for."""


class PriorityRule(WireModel):
    """The share of the budget that models of one type have together."""

    model_type: ModelType
    """The model type, as in ``models[].type``; one rule a type."""
    weight: Float = Field(gt=0, le=1)
    """The share, above 0 and at most 1. Types without a rule share what the rules leave."""


class Budget(WireModel):
    """The most that the models of a pipeline may use together; exactly one field is set."""

    replicas: Int | None = Field(default=None, ge=1, le=64_000)
    """Replicas of all models together."""
    gpus: Int | None = Field(default=None, ge=1, le=1_000_000)
    """GPUs of all models together; models that need no GPU lie outside the budget."""


class Scheduler(WireModel):
    """How the models of a pipeline share what there is."""

    policy: Policy = Policy.PRIORITY_BASED
    """``priority-based``: weights decide under a budget. ``static``: everybody gets what it asks
    for."""
    priority_rules: Annotated[
        tuple[PriorityRule, ...],
        Field(max_length=32, json_schema_extra=list_map("modelType")),
        AfterValidator(unique_by(lambda rule: rule.model_type, "modelType")),
    ] = ()
    """Weights by model type; they add up to at most 1."""
    budget: Budget | None = None
    """The limit that the weights divide. Without one every model gets its demand and the weights
    have no effect."""
