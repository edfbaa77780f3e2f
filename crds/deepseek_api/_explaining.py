"""Says what limited each model of an allocation, as a word and as a sentence.

Why it exists: numbers alone do not tell a user whether to change a weight, a bound or the budget.
Use ``deepseek_api.allocation`` instead of this module.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from fractions import Fraction

from deepseek_api._sharing import Claim, Shares, share_by_weight

__all__ = ["BudgetUnit", "Explainer", "LimitedBy", "format_share"]


class LimitedBy(enum.StrEnum):
    """What kept a model from more replicas."""

    DEMAND = "demand"
    """Nothing: it has all that it asks for."""
    CAP = "cap"
    """Its own upper bound: ``maxReplicas``, or ``replicas`` without an autoscaler."""
    WEIGHT = "weight"
    """The weights: a larger weight could give it more."""
    FLOOR = "floor"
    """Its weight alone would give less; the floor lifts it to what it has."""
    BUDGET = "budget"
    """The budget: no weight could give it more."""


class BudgetUnit(enum.StrEnum):
    """What a budget counts."""

    REPLICAS = "replicas"
    """Replicas of all models."""
    GPUS = "gpus"
    """GPUs of all models."""


class Explainer:
    """Finds what limited a model, and says it."""

    def __init__(
        self, claims: Sequence[Claim], shares: Shares, *, budget: int | None, unit: BudgetUnit
    ) -> None:
        self._shares = shares
        self._budget = budget
        self._unit = unit.value
        self._floors = sum(claim.cost * claim.floor for claim in claims)
        self._by_weight = share_by_weight(claims, budget) if budget is not None else {}

    def limit(self, claim: Claim) -> LimitedBy:
        """What kept a model from more replicas."""
        granted = self._shares.granted[claim.model]
        if granted >= claim.upper:
            return LimitedBy.CAP if claim.cap < claim.demand else LimitedBy.DEMAND
        if self._budget is None or not self._shares.floors_fit:
            return LimitedBy.BUDGET
        # With any weight, however large, the floors of the others come first.
        most = (self._budget - self._floors + claim.cost * claim.floor) // claim.cost
        if granted >= most:
            return LimitedBy.BUDGET
        by_weight = self._by_weight.get(claim.model, Fraction(0))
        if granted == claim.floor and by_weight < claim.floor:
            return LimitedBy.FLOOR
        return LimitedBy.WEIGHT

    def sentence(self, claim: Claim, limit: LimitedBy) -> str:
        """The reason, one sentence."""
        granted = self._shares.granted[claim.model]
        if limit is LimitedBy.DEMAND:
            return f"It asks for {claim.demand} and gets {granted}{self._why_free(claim)}."
        if limit is LimitedBy.CAP:
            return (
                f"It asks for {claim.demand}, but its own upper bound is {claim.cap}"
                f"{self._why_free(claim)}."
            )
        of_wanted = f"it gets {granted} of the {claim.upper} it could use"
        if limit is LimitedBy.BUDGET:
            return f"{self._why_budget()}: {of_wanted}."
        weight = format_share(claim.weight)
        if limit is LimitedBy.FLOOR:
            alone = format_share(self._by_weight.get(claim.model, Fraction(0)))
            return (
                f"Weight {weight} alone would give {alone}, its floor of {claim.floor} lifts it: "
                f"{of_wanted}."
            )
        entitled = self._shares.entitled[claim.model]
        rounded = "" if entitled == granted else f", rounded {_direction(entitled, granted)}"
        return (
            f"Weight {weight} entitles it to {format_share(entitled)} replicas within the budget "
            f"of {self._budget} {self._unit}{rounded}: {of_wanted}."
        )

    def _why_free(self, claim: Claim) -> str:
        if self._budget is None:
            return "; there is no budget to share"
        return "; it needs no GPU and lies outside the budget" if claim.cost == 0 else ""

    def _why_budget(self) -> str:
        if not self._shares.floors_fit:
            return (
                f"The floors of all models need {self._floors} {self._unit} and the budget has "
                f"{self._budget}"
            )
        return (
            f"The budget of {self._budget} {self._unit} holds no more beside the floors of the "
            "other models"
        )


def _direction(entitled: Fraction, granted: int) -> str:
    return "up" if granted > entitled else "down"


def format_share(value: Fraction) -> str:
    """An exact number for people: at most four decimals, no trailing zeros."""
    text = f"{float(round(value, 4)):.4f}".rstrip("0").rstrip(".")
    return text or "0"
