"""Weights are shares of device time."""

from __future__ import annotations

import random

import pytest
from deepseek_engine.fairness import FairQueue
from hypothesis import given, settings
from hypothesis import strategies as st

WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 100), min_size=2, max_size=6)


def make(weights: dict[str, float]) -> FairQueue:
    queue = FairQueue()
    for name, weight in weights.items():
        queue.set_weight(name, weight)
    return queue


@settings(max_examples=100, deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 2**32), steps=st.integers(1, 100))
def test_service_of_two_backlogged_flows_stays_within_the_bound(
    weights: dict[str, float], seed: int, steps: int
) -> None:
    queue, draw = make(weights), random.Random(seed)
    longest = {name: draw.uniform(0.1, 50) for name in weights}
    served = dict.fromkeys(weights, 0.0)
    for _ in range(steps):
        name = queue.choose(list(weights))
        cost = draw.uniform(0, longest[name])
        queue.charge(name, cost)
        served[name] += cost
        for i in weights:
            for j in weights:
                gap = abs(served[i] / weights[i] - served[j] / weights[j])
                bound = longest[i] / weights[i] + longest[j] / weights[j]
                assert gap <= bound * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(
    weights=WEIGHTS,
    ready=st.lists(st.sets(st.sampled_from("abcdef")), min_size=1, max_size=60),
    seed=st.integers(0, 2**32),
)
def test_a_ready_flow_is_always_chosen(
    weights: dict[str, float], ready: list[set[str]], seed: int
) -> None:
    queue, draw = make(weights), random.Random(seed)
    for names in ready:
        able = sorted(names & set(weights))
        if able:
            chosen = queue.choose(able)
            assert chosen in able
            queue.charge(chosen, draw.uniform(0, 10))
        else:
            queue.idle()


@pytest.mark.parametrize("seed", range(20))
def test_shares_at_weights_1_2_4_are_within_5_percent_with_mixed_costs(seed: int) -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 4.0}
    queue, draw = make(weights), random.Random(seed)
    usual = {"a": 30.0, "b": 2.0, "c": 9.0}
    served = dict.fromkeys(weights, 0.0)
    while sum(served.values()) < 10_000:  # ten seconds in milliseconds
        name = queue.choose(list(weights))
        cost = usual[name] * draw.lognormvariate(0, 0.5)
        queue.charge(name, cost)
        served[name] += cost
    total = sum(served.values())
    for name, weight in weights.items():
        assert served[name] / total == pytest.approx(weight / 7, rel=0.05)


@pytest.mark.parametrize("idle_steps", [1, 10, 1000])
def test_an_idle_flow_gains_no_credit(idle_steps: int) -> None:
    queue = make({"busy": 1.0, "late": 1.0})
    for _ in range(idle_steps):
        queue.choose(["busy"])
        queue.charge("busy", 10.0)
    served = {"busy": 0, "late": 0}
    for _ in range(20):
        name = queue.choose(["busy", "late"])
        queue.charge(name, 10.0)
        served[name] += 1
    # Two batches is the bound of the method at equal weights and equal costs.
    assert abs(served["busy"] - served["late"]) <= 2


def test_an_idle_period_is_forgotten_on_both_sides() -> None:
    queue = make({"a": 1.0, "b": 1.0})
    for _ in range(100):
        queue.choose(["a"])
        queue.charge("a", 10.0)
    queue.idle()
    first = []
    for _ in range(4):
        first.append(queue.choose(["a", "b"]))
        queue.charge(first[-1], 10.0)
    assert sorted(first) == ["a", "a", "b", "b"]


def test_a_weight_change_takes_effect_within_one_step() -> None:
    queue = make({"a": 1.0, "b": 1.0})
    for _ in range(10):
        queue.charge(queue.choose(["a", "b"]), 10.0)
    before = {name: queue.virtual_time(name) for name in "ab"}
    queue.set_weight("a", 4.0)
    served = {"a": 0.0, "b": 0.0}
    for _ in range(50):
        name = queue.choose(["a", "b"])
        queue.charge(name, 10.0)
        served[name] += 10.0
    assert queue.virtual_time("a") - before["a"] == pytest.approx(served["a"] / 4)
    assert served["a"] / served["b"] == pytest.approx(4, rel=0.05)


@settings(max_examples=50, deadline=None)
@given(weights=WEIGHTS, costs=st.lists(st.floats(0.1, 10), min_size=20, max_size=60))
def test_the_wait_of_every_flow_is_bounded(weights: dict[str, float], costs: list[float]) -> None:
    queue = make(weights)
    waited = dict.fromkeys(weights, 0.0)
    for cost in costs:
        name = queue.choose(list(weights))
        queue.charge(name, cost)
        for other in weights:
            waited[other] = 0.0 if other == name else waited[other] + cost
            # Others run at most until their virtual time passes this flow's, which is at most one
            # longest batch of its own away, and each may exceed it by one longest batch.
            rest = [w for o, w in weights.items() if o != other]
            assert waited[other] <= 10 * sum(rest) / weights[other] + 2 * 10 * len(rest) + 1e-6


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_above_zero_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        FairQueue().set_weight("a", weight)


def test_choosing_among_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no flow"):
        FairQueue().choose([])
