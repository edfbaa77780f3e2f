"""Whatever happens in whatever order: the budget is kept and in the end all have their grants."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scaling import fixed, pipeline, scaled
from tests.support.scaling_simulation import Simulation

NAMES = ("a", "b", "c")
BYTES_PER_MODEL = 4
ORDERS = [list(order) for order in itertools.permutations(NAMES)]

# Bytes instead of many draws: long stories stay fast, and failures still shrink.
models = st.binary(min_size=BYTES_PER_MODEL * 3, max_size=BYTES_PER_MODEL * 3)
costs = st.fixed_dictionaries({name: st.integers(1, 3) for name in NAMES})
stories = st.lists(
    st.tuples(st.sampled_from(["edit", "load", "edit"]), models, st.binary(max_size=40)),
    min_size=1,
    max_size=4,
)


def spec(data: bytes, *, budget: int, cost: dict[str, int], unit: str) -> ModelPipeline:
    """A pipeline of up to three models; at least one is there."""
    found: list[dict[str, Any]] = []
    shares: dict[str, int] = {}
    for index, name in enumerate(NAMES):
        kind, low, high, weight = data[index * BYTES_PER_MODEL : (index + 1) * BYTES_PER_MODEL]
        if kind % 5 == 0 and (found or name != NAMES[-1]):
            continue
        device = {"device": "cuda", "parallelism": {"tensor": cost[name], "pipeline": 1}}
        if kind % 2:
            found.append(scaled(name, 1 + low % 3, 3 + high % 8, **device))
        else:
            found.append(fixed(name, high % 9, **device))
        shares[name] = 1 + weight % 9
    weights = {name: share / sum(shares.values()) for name, share in shares.items()}
    return pipeline(*found, weights=weights, budget={unit: budget})


def happen(cluster: Simulation, event: int) -> None:
    """One thing happens; most of them are somebody's turn."""
    kind, detail = event % 16, event // 16
    name = NAMES[detail % len(NAMES)]
    if kind < 5:
        cluster.reconcile(order=ORDERS[detail % len(ORDERS)], saves_status=detail != 15)
    elif kind < 10:
        cluster.run_deployment(name)
    elif kind < 12:
        cluster.sync_autoscaler(name)
    elif kind < 14:
        cluster.reap(name)
    elif kind == 14:
        cluster.now += 4 * detail
    else:
        cluster.pending = {}
    cluster.note()


@pytest.mark.timeout(300)
@settings(max_examples=600, deadline=None)
@given(models, costs, st.integers(1, 12), st.sampled_from(["replicas", "gpus"]), stories)
def test_the_budget_is_kept_at_every_step_and_the_grants_are_reached(
    first: bytes,
    cost: dict[str, int],
    budget: int,
    unit: str,
    told: list[tuple[str, bytes, bytes]],
) -> None:
    if unit == "replicas":
        cost = dict.fromkeys(cost, 1)
    cluster = Simulation(spec(first, budget=budget, cost=cost, unit=unit), cost)
    for what, data, happened in told:
        for event in happened:
            happen(cluster, event)
            assert cluster.most_used <= budget, event
        cluster.settle()
        assert_grants_are_reached(cluster)
        if what == "edit":
            cluster.wanted = spec(data, budget=budget, cost=cost, unit=unit)
        else:
            cluster.load.update({name: data[i] % 13 for i, name in enumerate(NAMES)})
    cluster.settle()
    assert_grants_are_reached(cluster)
    assert cluster.most_used <= budget


def assert_grants_are_reached(cluster: Simulation) -> None:
    plan = cluster.plan
    assert plan is not None
    assert not plan.moving
    assert plan.pending_demand == {}
    assert set(cluster.workloads) == set(plan.scales)
    for name, scale in plan.scales.items():
        replicas = cluster.workloads[name].replicas
        assert cluster.running[name] == replicas
        assert scale.target == plan.allocation.row(name).granted
        if scale.autoscaler is None:
            assert replicas == scale.target
        else:
            assert scale.autoscaler.maximum == scale.target
            assert replicas == max(scale.autoscaler.minimum, min(cluster.load[name], scale.target))
            assert plan.allocation.row(name).demand >= cluster.load[name]


def test_weights_that_are_edited_move_replicas_to_the_other_model() -> None:
    def weighted(first: float) -> ModelPipeline:
        return pipeline(
            scaled("a", 1, 4),
            scaled("b", 1, 4),
            weights={"a": first, "b": 1 - first},
            budget={"replicas": 4},
        )

    cluster = Simulation(weighted(0.75), dict.fromkeys(NAMES, 1))
    cluster.load.update({"a": 4, "b": 4})
    cluster.settle()
    assert {name: work.replicas for name, work in cluster.workloads.items()} == {"a": 3, "b": 1}
    cluster.load["a"] = 1
    cluster.settle()
    assert {name: work.replicas for name, work in cluster.workloads.items()} == {"a": 1, "b": 3}
    cluster.load["a"] = 4
    cluster.wanted = weighted(0.25)
    cluster.settle()
    assert {name: work.replicas for name, work in cluster.workloads.items()} == {"a": 1, "b": 3}
    cluster.wanted = weighted(0.75)
    cluster.settle()
    assert {name: work.replicas for name, work in cluster.workloads.items()} == {"a": 3, "b": 1}
    assert cluster.most_used == 4


def test_replicas_do_not_dip_when_a_model_is_handed_over_and_back() -> None:
    cluster = Simulation(pipeline(fixed("a", 3)), {"a": 1})
    cluster.settle()
    cluster.load["a"] = 3
    for wanted in (scaled("a", 1, 5), fixed("a", 3), scaled("a", 1, 5)):
        cluster.wanted = pipeline(wanted)
        for _ in range(4):
            cluster.reconcile(order=["a"])
            assert cluster.workloads["a"].replicas == 3
            cluster.sync_autoscaler("a")
            assert cluster.workloads["a"].replicas == 3
