"""Moving replicas between models without ever using more than the budget."""

from __future__ import annotations

import pytest
from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.plan import AutoscalerBounds, ScalingPlan

from tests.support.scaling import (
    autoscaler,
    decide,
    deployment,
    fixed,
    observe,
    pipeline,
    pods,
    scaled,
)

HPA = "kube-controller-manager"
PAIR = pipeline(
    fixed("a", 4), fixed("b", 4), weights={"a": 0.75, "b": 0.25}, budget={"replicas": 4}
)


def written(plan: ScalingPlan) -> dict[str, int | None]:
    return {name: scale.replicas for name, scale in plan.scales.items()}


def test_four_gpus_are_shared_three_to_one() -> None:
    gpus = pipeline(
        fixed("a", 4, device="cuda"),
        fixed("b", 4, device="cuda"),
        weights={"a": 0.75, "b": 0.25},
        budget={"gpus": 4},
    )
    plan = decide(gpus)
    assert written(plan) == {"a": 3, "b": 1}
    assert not plan.moving
    assert plan.requeue_after_s is None


def test_autoscaled_models_share_four_gpus_by_their_bounds() -> None:
    gpus = pipeline(
        scaled("a", 1, 4, device="cuda"),
        scaled("b", 1, 4, device="cuda"),
        weights={"a": 0.75, "b": 0.25},
        budget={"gpus": 4},
    )
    busy = observe(
        deployment("a", 1, owner=HPA),
        autoscaler("a", most=1, desired=1, at_bound=True),
        deployment("b", 1, owner=HPA),
        autoscaler("b", most=1, desired=1, at_bound=True),
        previous={"a": 4, "b": 4},
    )
    plan = decide(gpus, busy)
    assert plan.scales["a"].autoscaler == AutoscalerBounds(minimum=1, maximum=3)
    assert plan.scales["b"].autoscaler == AutoscalerBounds(minimum=1, maximum=1)
    assert plan.scales["a"].replicas is None
    assert not plan.moving


@pytest.mark.parametrize(
    ("observed", "expected", "moving"),
    [
        pytest.param(observe(), (3, 1), False, id="from nothing"),
        pytest.param(
            observe(deployment("a", 1), deployment("b", 3)), (1, 1), True, id="all is in use"
        ),
        pytest.param(
            observe(deployment("a", 1), deployment("b", 1), pods=pods("b", running=1, ending=2)),
            (1, 1),
            True,
            id="two replicas end",
        ),
        pytest.param(
            observe(deployment("a", 1), deployment("b", 1), pods=pods("b", running=1, ending=1)),
            (2, 1),
            True,
            id="one replica ends",
        ),
        pytest.param(
            observe(deployment("a", 1), deployment("b", 1), pods=pods("b", running=1)),
            (3, 1),
            False,
            id="all is free",
        ),
        pytest.param(
            observe(deployment("a", 1), deployment("b", 1), pods=pods("a", running=1, ending=2)),
            (1, 1),
            True,
            id="its own ending replicas count too",
        ),
        pytest.param(
            observe(deployment("a", 1), deployment("b", 1), pods=pods("b", running=3)),
            (1, 1),
            True,
            id="lowered, but the pods do not end yet",
        ),
        pytest.param(
            observe(deployment("a", 1), deployment("b", 1, status={"replicas": 3})),
            (1, 1),
            True,
            id="lowered, but the Deployment still counts them",
        ),
        pytest.param(
            observe(deployment("a", 1), deployment("b", 1, owner=HPA), autoscaler("b", most=3)),
            (1, 1),
            True,
            id="an autoscaler may still raise it",
        ),
        pytest.param(
            observe(deployment("a", 1), autoscaler("b", most=3)),
            (1, 1),
            True,
            id="an autoscaler waits for its Deployment",
        ),
        pytest.param(
            observe(
                deployment("a", 1),
                deployment("b", 1),
                pods=pods("b", running=2, phase="Failed"),
            ),
            (3, 1),
            False,
            id="pods that have ended use nothing",
        ),
        pytest.param(
            observe(deployment("a", 9), deployment("b", 0)),
            (3, 0),
            True,
            id="more than the budget is in use",
        ),
    ],
)
def test_growing_takes_only_what_is_free_and_shrinking_waits_for_nobody(
    observed: Observed, expected: tuple[int, int], moving: bool
) -> None:
    plan = decide(PAIR, observed)
    assert (plan.scales["a"].replicas, plan.scales["b"].replicas) == expected
    assert (plan.scales["a"].target, plan.scales["b"].target) == (3, 1)
    assert plan.moving is moving
    assert plan.requeue_after_s == (2 if moving else None)


def test_a_model_that_left_the_spec_uses_the_budget_until_its_pods_are_gone() -> None:
    old = deployment("old", 2)
    assert written(decide(PAIR, observe(old))) == {"a": 2, "b": 0}
    gone = observe(pods=pods("old", ending=3))
    assert written(decide(PAIR, gone)) == {"a": 1, "b": 0}
    assert written(decide(PAIR, observe(deployment("a", 3), deployment("b", 1)))) == {
        "a": 3,
        "b": 1,
    }


def test_a_budget_of_gpus_counts_the_devices_of_what_runs() -> None:
    wanted = pipeline(
        fixed("a", 2, device="cuda", parallelism={"tensor": 2, "pipeline": 1}), budget={"gpus": 8}
    )

    def granted(*children: K8sObject, ending: int = 0) -> int | None:
        observed = observe(*children, pods=pods("old", ending=ending, gpus=2))
        return decide(wanted, observed).scales["a"].replicas

    assert granted() == 2
    assert granted(deployment("old", 2, gpus=2)) == 2
    assert granted(deployment("old", 3, gpus=2)) == 1
    assert granted(deployment("old", 1, gpus=8)) == 0
    assert granted(ending=3) == 1
    assert granted(deployment("old", 5)) == 2, "it needs no device"


def test_a_model_whose_replicas_become_smaller_holds_their_old_size_until_they_are_gone() -> None:
    wanted = pipeline(
        fixed("a", 1, device="cuda"),
        fixed("b", 3, device="cuda"),
        weights={"a": 0.5, "b": 0.5},
        budget={"gpus": 4},
    )
    plan = decide(wanted, observe(deployment("a", 1, gpus=2)))
    assert written(plan) == {"a": 1, "b": 2}
    assert plan.moving


def test_what_is_free_goes_to_the_heavier_model_first() -> None:
    wanted = pipeline(
        fixed("a", 5),
        fixed("b", 5),
        fixed("c", 5),
        weights={"b": 0.6, "a": 0.2, "c": 0.2},
        budget={"replicas": 10},
    )
    plan = decide(wanted, observe(deployment("c", 8)))
    assert plan.allocation.granted == {"a": 3, "b": 5, "c": 2}
    assert written(plan) == {"a": 0, "b": 2, "c": 2}


def test_a_model_waits_with_the_bounds_that_it_has() -> None:
    wanted = pipeline(
        scaled("a", 3, 4), fixed("b", 4), weights={"a": 0.75, "b": 0.25}, budget={"replicas": 4}
    )
    busy = observe(
        deployment("a", 1, owner=HPA),
        autoscaler("a", least=1, most=1, desired=4, current=1),
        deployment("b", 3),
        previous={"a": 4},
    )
    plan = decide(wanted, busy)
    assert plan.scales["a"].autoscaler == AutoscalerBounds(minimum=1, maximum=1)
    assert plan.moving


def test_a_new_autoscaled_model_is_created_without_replicas_until_there_is_room() -> None:
    wanted = pipeline(
        scaled("a"), fixed("b", 4), weights={"a": 0.75, "b": 0.25}, budget={"replicas": 4}
    )
    plan = decide(wanted, observe(deployment("b", 4)))
    found = plan.scales["a"]
    assert (found.replicas, found.handover, found.autoscaler, found.target) == (0, None, None, 1)
    assert plan.moving
