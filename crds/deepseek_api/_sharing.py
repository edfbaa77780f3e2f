"""The arithmetic of sharing a budget: exact ideal shares, then whole replicas.

Why it exists: these functions know numbers only, no pipeline, so that their properties can be
tested on their own. All numbers are exact (``int`` and ``Fraction``): with floats the result could
depend on the order of the models. Use ``deepseek_api.allocation`` instead of this module.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Claim", "Shares", "share", "share_by_weight"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What one model asks of the budget."""

    model: str
    """Name of the model; decides ties."""
    weight: Fraction
    """Priority weight, 0 or more; only ratios matter."""
    wanted: int
    """Replicas that the spec asks for; the weight among models of weight 0 (at least 1 there)."""
    demand: int
    """Replicas that it asks for now."""
    floor: int
    """Replicas that it gets first."""
    cap: int
    """Replicas that it gets at most."""
    cost: int = 1
    """Units of the budget that one replica uses; 0: outside the budget."""

    @property
    def upper(self) -> int:
        """The most it can get: demand or cap, never below the floor."""
        return max(self.floor, min(self.demand, self.cap))


@dataclass(frozen=True, slots=True)
class Shares:
    """What the models get."""

    entitled: Mapping[str, Fraction]
    """The exact share of each model, in replicas."""
    granted: Mapping[str, int]
    """Whole replicas of each model."""
    floors_fit: bool
    """Whether the budget covers all floors."""


def share(claims: Sequence[Claim], budget: int | None) -> Shares:
    """Share a budget among claims.

    Args:
        claims: one per model, with different names; their order does not matter.
        budget: units to share, or None for no limit.
    """
    inside = [claim for claim in claims if claim.cost > 0]
    # Outside the budget (or without one) nobody is in anybody's way.
    granted = {claim.model: claim.upper for claim in claims if budget is None or claim.cost == 0}
    entitled = {model: Fraction(count) for model, count in granted.items()}
    if budget is None:
        return Shares(entitled=entitled, granted=granted, floors_fit=True)
    inside.sort(key=_by_weight_then_name)
    floors_fit = sum(claim.cost * claim.floor for claim in inside) <= budget
    if floors_fit:
        ideal = _ideal(inside, budget)
        counts = _whole(inside, ideal, budget)
        entitled.update(ideal)
    else:
        counts = _floors_in_rounds(inside, budget)
        entitled.update({model: Fraction(count) for model, count in counts.items()})
    granted.update(counts)
    return Shares(entitled=entitled, granted=granted, floors_fit=floors_fit)


def share_by_weight(claims: Sequence[Claim], budget: int) -> dict[str, Fraction]:
    """What each weight alone would give inside the budget: no floors, the same upper ends.

    Explanations compare these replicas with the floor.
    """
    inside = [claim for claim in claims if claim.cost > 0 and claim.weight > 0]
    weights = [claim.weight for claim in inside]
    return _fill(inside, budget, weights=weights, floors=[0] * len(inside))


def _by_weight_then_name(claim: Claim) -> tuple[Fraction, str]:
    return -claim.weight, claim.model


def _ideal(claims: Sequence[Claim], budget: int) -> dict[str, Fraction]:
    """The exact shares when all floors fit; weight 0 gets what the others leave."""
    weighted = [claim for claim in claims if claim.weight > 0]
    weightless = [claim for claim in claims if claim.weight == 0]
    reserved = sum(claim.cost * claim.floor for claim in weightless)
    ideal = _fill(weighted, budget - reserved, weights=[claim.weight for claim in weighted])
    if weightless:
        # What is left is whole: either the others used all, or they are at their upper ends.
        full = sum(claim.cost * claim.upper for claim in weighted)
        rest = budget - min(full, budget - reserved)
        ideal.update(
            _fill(weightless, rest, weights=[Fraction(max(1, c.wanted)) for c in weightless])
        )
    return ideal


def _fill(
    claims: Sequence[Claim],
    amount: int,
    *,
    weights: Sequence[Fraction],
    floors: Sequence[int] | None = None,
) -> dict[str, Fraction]:
    """``clamp(level * weight / cost, floor, upper)`` for the level that uses up the amount.

    The used amount grows with the level and bends only where a claim leaves its floor or reaches
    its upper end. So: find the last bend that the amount reaches, then go on in a straight line.
    With ``scale`` as a common multiple of the weights every bend is a whole number of
    ``1 / scale``, which keeps the search free of fractions.
    """
    if not claims:
        return {}
    common = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * common) for weight in weights]
    scale = math.lcm(*whole)
    lows = [
        claim.cost * floor * scale
        for claim, floor in zip(
            claims, [c.floor for c in claims] if floors is None else floors, strict=True
        )
    ]
    highs = [claim.cost * claim.upper * scale for claim in claims]
    ends = list(zip(whole, lows, highs, strict=True))

    def used(level: int) -> int:
        return sum(max(low, min(level * weight, high)) for weight, low, high in ends)

    bends = sorted({0} | {end // weight for weight, *both in ends for end in both})
    level = bends[bisect.bisect_right(bends, amount * scale, key=used) - 1]
    slope = sum(weight for weight, low, high in ends if low <= level * weight < high)
    exact = Fraction(level)
    if slope:
        exact += Fraction(amount * scale - used(level), slope)
    return {
        claim.model: max(Fraction(low), min(exact * weight, Fraction(high))) / (scale * claim.cost)
        for claim, (weight, low, high) in zip(claims, ends, strict=True)
    }


def _whole(claims: Sequence[Claim], ideal: Mapping[str, Fraction], budget: int) -> dict[str, int]:
    """Whole replicas near the ideal: round down, largest remainders up, then what still fits."""
    granted = {claim.model: int(ideal[claim.model]) for claim in claims}
    left = budget - sum(claim.cost * granted[claim.model] for claim in claims)
    # ``claims`` are sorted by weight and name and the sort is stable, which decides ties.
    for claim in sorted(claims, key=lambda c: granted[c.model] - ideal[c.model]):
        if granted[claim.model] < ideal[claim.model] and claim.cost <= left:
            granted[claim.model] += 1
            left -= claim.cost
    _grant_what_fits(claims, granted, left)
    return granted


def _floors_in_rounds(claims: Sequence[Claim], budget: int) -> dict[str, int]:
    """One replica each a round, heaviest first, as long as something below its floor fits."""
    granted = {claim.model: 0 for claim in claims}
    left = budget
    progress = True
    while progress:
        progress = False
        for claim in claims:
            if granted[claim.model] < claim.floor and claim.cost <= left:
                granted[claim.model] += 1
                left -= claim.cost
                progress = True
    # A large replica may not fit where a small one beyond its floor does: no capacity stays idle.
    _grant_what_fits(claims, granted, left)
    return granted


def _grant_what_fits(claims: Sequence[Claim], granted: dict[str, int], left: int) -> None:
    """Give the rest to the heaviest claim that wants more and fits, then to the next one."""
    for claim in claims:
        extra = min(claim.upper - granted[claim.model], left // claim.cost)
        if extra > 0:
            granted[claim.model] += extra
            left -= extra * claim.cost
