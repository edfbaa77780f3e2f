"""Properties of sharing a budget, over 10,000 random cases each.

These are about the arithmetic; test_allocation_pipelines.py goes through whole pipelines.
"""

from __future__ import annotations

import dataclasses
import random
from fractions import Fraction

from deepseek_api._explaining import BudgetUnit, Explainer, LimitedBy
from deepseek_api._sharing import Claim, Shares, share
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.nearest import distance, smallest_distance

NAMES = "abcdef"
BYTES_PER_CLAIM = 6
MOST = 6
"""Claims of a case, at most."""
CASES = 20
"""Cases that one draw of Hypothesis carries: the draw is dearer than what is tested. A failure
still shrinks: the other cases of its draw become trivial ones."""
each_on_10_000_cases = settings(max_examples=10_000 // CASES, deadline=None)

Case = tuple[list[Claim], int, int, int]
"""Claims, a budget, and two numbers for whatever a property needs."""


def cases(
    *, most: int = MOST, costs: bool = True, top: int = 12, budget: int = 40
) -> st.SearchStrategy[list[Case]]:
    """``CASES`` times up to ``most`` claims with weights, bounds and costs of every kind."""
    width = 4 + BYTES_PER_CLAIM * most

    def build(data: bytes) -> Case:
        rows = [data[i : i + BYTES_PER_CLAIM] for i in range(4, width, BYTES_PER_CLAIM)]
        made = [
            claim(name, row, costs=costs, top=top)
            for name, row in zip(NAMES, rows[: 1 + data[0] % most], strict=False)
        ]
        return made, 1 + data[1] % budget, data[2], data[3]

    drawn = st.binary(min_size=CASES * width, max_size=CASES * width)
    return drawn.map(lambda d: [build(d[i : i + width]) for i in range(0, len(d), width)])


def claim(name: str, row: bytes, *, costs: bool, top: int) -> Claim:
    floor = row[2] % 4
    return Claim(
        model=name,
        weight=Fraction(row[0] % 21, 20),
        demand=max(row[1] % (top + 1), floor),
        floor=floor,
        cap=max(row[3] % (top + 1), floor),
        cost=row[4] % 6 if costs else 1,
        wanted=row[5] % (top + 1),
    )


def used(shares: Shares, given_claims: list[Claim]) -> int:
    return sum(claim.cost * shares.granted[claim.model] for claim in given_claims)


@each_on_10_000_cases
@given(cases())
def test_a_budget_is_kept_and_used(batch: list[Case]) -> None:
    for claims, budget, *_ in batch:
        shares = share(claims, budget)
        left = budget - used(shares, claims)
        inside = [claim for claim in claims if claim.cost > 0]
        assert left >= 0, "over budget"
        for claim in inside:
            granted = shares.granted[claim.model]
            assert 0 <= granted <= claim.upper
            assert granted == claim.upper or claim.cost > left, "idle capacity that somebody wants"
            assert not shares.floors_fit or granted >= claim.floor, "floor not met"
        floors = sum(claim.cost * claim.floor for claim in inside)
        assert shares.floors_fit == (floors <= budget)
        for claim in claims:
            assert claim.cost > 0 or shares.granted[claim.model] == claim.upper


@each_on_10_000_cases
@given(cases())
def test_entitled_shares_fill_the_budget_exactly_or_satisfy_everybody(batch: list[Case]) -> None:
    for claims, budget, *_ in batch:
        shares = share(claims, budget)
        if not shares.floors_fit:
            continue
        inside = [claim for claim in claims if claim.cost > 0]
        total = sum((claim.cost * shares.entitled[claim.model] for claim in inside), Fraction(0))
        satisfied = all(shares.entitled[claim.model] == claim.upper for claim in inside)
        assert total == budget or (satisfied and total < budget)


@each_on_10_000_cases
@given(cases())
def test_entitled_shares_are_proportional_between_the_bounds(batch: list[Case]) -> None:
    for claims, budget, *_ in batch:
        shares = share(claims, budget)
        if not shares.floors_fit:
            continue
        free = {
            claim.cost * shares.entitled[claim.model] / claim.weight
            for claim in claims
            if claim.cost > 0
            and claim.weight > 0
            and claim.floor < shares.entitled[claim.model] < claim.upper
        }
        assert len(free) <= 1


@each_on_10_000_cases
@given(cases())
def test_the_order_of_models_does_not_matter(batch: list[Case]) -> None:
    for claims, budget, which, _ in batch:
        shuffled = random.Random(which).sample(claims, len(claims))
        assert share(shuffled, budget) == share(claims, budget)


@each_on_10_000_cases
@given(cases(costs=False))
def test_unit_costs_stay_within_one_replica_of_the_ideal(batch: list[Case]) -> None:
    for claims, budget, *_ in batch:
        shares = share(claims, budget)
        for claim in claims:
            assert abs(shares.granted[claim.model] - shares.entitled[claim.model]) < 1


@each_on_10_000_cases
@given(cases(costs=False))
def test_more_weight_never_means_fewer_replicas(batch: list[Case]) -> None:
    for claims, budget, which, more in batch:
        before = claims[which % len(claims)]
        weight = before.weight + Fraction(1 + more % 20, 20)
        after = dataclasses.replace(before, weight=weight)
        changed = [after if claim is before else claim for claim in claims]
        granted = share(claims, budget).granted[before.model]
        assert share(changed, budget).granted[before.model] >= granted


@each_on_10_000_cases
@given(cases(most=4, costs=False, top=5, budget=12))
def test_unit_costs_come_as_near_to_the_ideal_as_whole_replicas_can(batch: list[Case]) -> None:
    for claims, budget, *_ in batch:
        shares = share(claims, budget)
        total = min(budget, sum(claim.upper for claim in claims))
        assert sum(shares.granted.values()) == total
        if not shares.floors_fit:
            continue
        ideal = [shares.entitled[claim.model] for claim in claims]
        granted = [shares.granted[claim.model] for claim in claims]
        assert distance(granted, ideal) == smallest_distance(
            [range(claim.floor, claim.upper + 1) for claim in claims], ideal, total
        )


@each_on_10_000_cases
@given(cases())
def test_without_a_budget_everybody_gets_its_demand(batch: list[Case]) -> None:
    for claims, *_ in batch:
        shares = share(claims, None)
        assert shares.granted == {claim.model: claim.upper for claim in claims}


@each_on_10_000_cases
@given(cases(costs=False))
def test_the_stated_limit_is_the_one_whose_change_helps(batch: list[Case]) -> None:
    for claims, budget, which, _ in batch:
        claim = claims[which % len(claims)]
        shares = share(claims, budget)
        granted = shares.granted[claim.model]
        limit = Explainer(claims, shares, budget=budget, unit=BudgetUnit.REPLICAS).limit(claim)
        heavy = dataclasses.replace(claim, weight=Fraction(10**9))
        changed = [heavy if other is claim else other for other in claims]
        heaviest = share(changed, budget).granted[claim.model]
        assert (limit in (LimitedBy.DEMAND, LimitedBy.CAP)) == (granted == claim.upper)
        if limit is LimitedBy.CAP:
            assert claim.demand > claim.cap
        elif limit is LimitedBy.BUDGET and shares.floors_fit:
            assert heaviest == granted
        elif limit in (LimitedBy.WEIGHT, LimitedBy.FLOOR):
            assert heaviest > granted
            assert limit is not LimitedBy.FLOOR or granted == claim.floor
