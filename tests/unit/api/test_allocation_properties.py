"""Properties of sharing a budget, over random claims."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction

import pytest
from deepseek_api._explaining import BudgetUnit, Explainer, LimitedBy
from deepseek_api._sharing import Claim, Shares, share
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = "abcdefghijkl"


BYTES_PER_CLAIM = 6


def claims(*, most: int = 6, costs: bool = True, top: int = 12) -> st.SearchStrategy[list[Claim]]:
    """Between one and ``most`` claims with weights, bounds and costs of every kind.

    One draw of bytes instead of many of numbers: ten thousand cases take seconds, and a failure
    still shrinks.
    """

    def build(data: bytes) -> list[Claim]:
        rows = [data[i : i + BYTES_PER_CLAIM] for i in range(0, len(data), BYTES_PER_CLAIM)]
        return [
            claim(name, row, costs=costs, top=top)
            for name, row in zip(NAMES, rows, strict=False)
            if len(row) == BYTES_PER_CLAIM
        ]

    return st.binary(min_size=BYTES_PER_CLAIM, max_size=BYTES_PER_CLAIM * most).map(build)


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


budgets = st.integers(1, 40)
many = settings(max_examples=10_000, deadline=None)
some = settings(max_examples=800, deadline=None)


def used(shares: Shares, given_claims: list[Claim]) -> int:
    return sum(claim.cost * shares.granted[claim.model] for claim in given_claims)


@pytest.mark.timeout(120)
@many
@given(claims(), budgets)
def test_a_budget_is_kept_and_used(given_claims: list[Claim], budget: int) -> None:
    shares = share(given_claims, budget)
    left = budget - used(shares, given_claims)
    inside = [claim for claim in given_claims if claim.cost > 0]
    assert left >= 0, "over budget"
    for claim in inside:
        granted = shares.granted[claim.model]
        assert 0 <= granted <= claim.upper
        assert granted == claim.upper or claim.cost > left, "idle capacity that somebody wants"
        assert not shares.floors_fit or granted >= claim.floor, "floor not met"
    floors = sum(claim.cost * claim.floor for claim in inside)
    assert shares.floors_fit == (floors <= budget)
    for claim in given_claims:
        assert claim.cost > 0 or shares.granted[claim.model] == claim.upper


@some
@given(claims(), budgets)
def test_entitled_shares_fill_the_budget_exactly_or_satisfy_everybody(
    given_claims: list[Claim], budget: int
) -> None:
    shares = share(given_claims, budget)
    if not shares.floors_fit:
        return
    inside = [claim for claim in given_claims if claim.cost > 0]
    total = sum((claim.cost * shares.entitled[claim.model] for claim in inside), Fraction(0))
    satisfied = all(shares.entitled[claim.model] == claim.upper for claim in inside)
    assert total == budget or (satisfied and total < budget)


@some
@given(claims(), budgets)
def test_entitled_shares_are_proportional_between_the_bounds(
    given_claims: list[Claim], budget: int
) -> None:
    shares = share(given_claims, budget)
    if not shares.floors_fit:
        return
    free = [
        claim.cost * shares.entitled[claim.model] / claim.weight
        for claim in given_claims
        if claim.cost > 0
        and claim.weight > 0
        and claim.floor < shares.entitled[claim.model] < claim.upper
    ]
    assert len(set(free)) <= 1


@some
@given(claims(), budgets, st.randoms(use_true_random=False))
def test_the_order_of_models_does_not_matter(
    given_claims: list[Claim], budget: int, random: object
) -> None:
    shuffled = list(given_claims)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert share(shuffled, budget) == share(given_claims, budget)


@some
@given(claims(costs=False), budgets)
def test_unit_costs_stay_within_one_replica_of_the_ideal(
    given_claims: list[Claim], budget: int
) -> None:
    shares = share(given_claims, budget)
    for claim in given_claims:
        assert abs(shares.granted[claim.model] - shares.entitled[claim.model]) < 1


@pytest.mark.timeout(120)
@settings(max_examples=2_500, deadline=None)
@given(claims(costs=False), budgets, st.integers(0, 5), st.integers(1, 20))
def test_more_weight_never_means_fewer_replicas(
    given_claims: list[Claim], budget: int, which: int, more: int
) -> None:
    index = which % len(given_claims)
    before = given_claims[index]
    after = dataclasses.replace(before, weight=before.weight + Fraction(more, 20))
    changed = [after if claim is before else claim for claim in given_claims]
    granted = share(given_claims, budget).granted[before.model]
    assert share(changed, budget).granted[before.model] >= granted


@pytest.mark.timeout(120)
@settings(max_examples=1_500, deadline=None)
@given(claims(most=4, costs=False, top=5), st.integers(1, 12))
def test_unit_costs_come_as_near_to_the_ideal_as_whole_replicas_can(
    given_claims: list[Claim], budget: int
) -> None:
    shares = share(given_claims, budget)
    if not shares.floors_fit:
        return

    def distance(counts: tuple[int, ...]) -> Fraction:
        return max(
            abs(count - shares.entitled[claim.model])
            for count, claim in zip(counts, given_claims, strict=True)
        )

    total = min(budget, sum(claim.upper for claim in given_claims))
    ranges = (range(claim.floor, claim.upper + 1) for claim in given_claims)
    best = min(distance(counts) for counts in itertools.product(*ranges) if sum(counts) == total)
    granted = tuple(shares.granted[claim.model] for claim in given_claims)
    assert sum(granted) == total
    assert distance(granted) == best


@some
@given(claims())
def test_without_a_budget_everybody_gets_its_demand(given_claims: list[Claim]) -> None:
    shares = share(given_claims, None)
    assert shares.granted == {claim.model: claim.upper for claim in given_claims}


@some
@given(claims(costs=False), budgets, st.integers(0, 5))
def test_the_stated_limit_is_the_one_whose_change_helps(
    given_claims: list[Claim], budget: int, which: int
) -> None:
    claim = given_claims[which % len(given_claims)]
    shares = share(given_claims, budget)
    granted = shares.granted[claim.model]
    explain = Explainer(given_claims, shares, budget=budget, unit=BudgetUnit.REPLICAS)

    def granted_with(**changes: object) -> int:
        changed = dataclasses.replace(claim, **changes)  # type: ignore[arg-type]
        claims_ = [changed if other is claim else other for other in given_claims]
        return share(claims_, budget).granted[claim.model]

    heaviest = granted_with(weight=Fraction(10**9))
    limit = explain.limit(claim)
    assert (limit in (LimitedBy.DEMAND, LimitedBy.CAP)) == (granted == claim.upper)
    if limit is LimitedBy.CAP:
        assert claim.demand > claim.cap
    elif limit is LimitedBy.BUDGET and shares.floors_fit:
        assert heaviest == granted
    elif limit in (LimitedBy.WEIGHT, LimitedBy.FLOOR):
        assert heaviest > granted
        assert limit is not LimitedBy.FLOOR or granted == claim.floor
