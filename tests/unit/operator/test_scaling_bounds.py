"""Who writes the replicas of a model, and what: the operator, an autoscaler or a handover."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_api.v1alpha1.conditions import ConditionReason, ConditionType
from deepseek_operator import labels
from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.plan import AutoscalerBounds, ModelScale
from deepseek_operator.scaling import owns_replicas

from tests.support.scaling import (
    autoscaler,
    decide,
    deployment,
    fixed,
    foreign,
    observe,
    pipeline,
    scaled,
)

HPA = "kube-controller-manager"


def scale(
    model: dict[str, Any], observed: Observed | None = None, *, budget: int | None = None
) -> ModelScale:
    wanted = pipeline(model, budget=None if budget is None else {"replicas": budget})
    return decide(wanted, observed).scales[model["name"]]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (deployment("a", 3), True),
        (deployment("a", 3, owner=labels.HANDOVER_MANAGER), False),
        (deployment("a", 3, operation="Update"), False),
        (deployment("a", 3, owner=None), False),
        ({"metadata": {}}, False),
    ],
)
def test_replicas_are_owned_by_server_side_apply_only(item: K8sObject, expected: bool) -> None:
    assert owns_replicas(item, labels.MANAGER) is expected


@pytest.mark.parametrize("replicas", [0, 1, 4])
def test_fixed_replicas_are_written_by_the_operator(replicas: int) -> None:
    found = scale(fixed("a", replicas))
    assert (found.replicas, found.handover, found.autoscaler) == (replicas, None, None)
    assert found.target == replicas


def test_without_a_budget_the_bounds_are_those_of_the_spec() -> None:
    found = scale(scaled("a", 2, 9), observe(deployment("a", 4, owner=HPA), autoscaler("a")))
    assert found.autoscaler == AutoscalerBounds(minimum=2, maximum=9)
    assert (found.replicas, found.handover, found.target) == (None, None, 4)


@pytest.mark.parametrize(("least", "expected"), [(1, (1, 4)), (4, (4, 4)), (6, (4, 4))])
def test_under_a_budget_the_grant_is_the_upper_bound(least: int, expected: tuple[int, int]) -> None:
    found = scale(
        scaled("a", least, 9),
        observe(deployment("a", 4, owner=HPA), autoscaler("a", most=9), previous={"a": 9}),
        budget=4,
    )
    assert found.autoscaler == AutoscalerBounds(minimum=expected[0], maximum=expected[1])


def test_a_model_without_gpus_is_not_bound_by_a_budget_of_gpus() -> None:
    wanted = pipeline(scaled("a", 1, 9), fixed("b", device="cuda"), budget={"gpus": 1})
    plan = decide(wanted, observe(deployment("a", 2, owner=HPA), autoscaler("a")))
    assert plan.scales["a"].autoscaler == AutoscalerBounds(minimum=1, maximum=9)


def test_a_grant_of_zero_removes_the_autoscaler_and_writes_zero() -> None:
    wanted = pipeline(
        scaled("a", 2), fixed("b", 2), weights={"b": 0.9, "a": 0.1}, budget={"replicas": 1}
    )
    plan = decide(wanted, observe(deployment("a", 1, owner=HPA), autoscaler("a", most=1)))
    found = plan.scales["a"]
    assert (found.replicas, found.autoscaler, found.handover, found.target) == (0, None, None, 0)


@pytest.mark.parametrize("replicas", [1, 3, 10])
def test_a_handover_keeps_the_live_replicas(replicas: int) -> None:
    found = scale(scaled("a", 1, 10), observe(deployment("a", replicas)))
    assert (found.replicas, found.handover) == (None, replicas)
    assert found.autoscaler == AutoscalerBounds(minimum=1, maximum=10)


def test_a_handover_never_writes_fewer_than_the_live_replicas_under_a_budget() -> None:
    found = scale(scaled("a", 1, 10), observe(deployment("a", 3)), budget=2)
    assert found.handover == 3


@pytest.mark.parametrize("owner", [HPA, labels.HANDOVER_MANAGER])
def test_a_handover_ends_when_the_main_manager_has_let_go(owner: str) -> None:
    assert scale(scaled("a"), observe(deployment("a", 3, owner=owner))).handover is None


@pytest.mark.parametrize(
    ("model", "expected"),
    [(scaled("a"), None), (scaled("a", 3), 3), (scaled("a", 2, 8, replicas=5), 5)],
)
def test_a_new_autoscaled_model_starts_with_what_is_wanted(
    model: dict[str, Any], expected: int | None
) -> None:
    assert scale(model).handover == expected
    created = observe(deployment("a", 1, owner=None))
    assert scale(model, created).handover == expected, "created, but nothing has scaled it"


def test_a_new_autoscaled_model_starts_within_its_budget() -> None:
    found = scale(scaled("a", 2, 8, replicas=5), budget=3)
    assert (found.handover, found.replicas) == (3, None)
    assert found.autoscaler == AutoscalerBounds(minimum=2, maximum=3)


@pytest.mark.parametrize(
    "children",
    [
        [deployment("a", 1, owner=None), autoscaler("a")],
        [deployment("a", 1, owner=HPA, operation="Update")],
        [deployment("a", 1, owner="kubectl", operation="Update")],
    ],
)
def test_a_model_that_an_autoscaler_has_written_is_not_started_again(
    children: list[K8sObject],
) -> None:
    assert scale(scaled("a", 3), observe(*children)).handover is None


def test_a_deployment_that_is_created_again_starts_with_its_demand() -> None:
    observed = observe(
        autoscaler("a", desired=6, active="False", active_reason="FailedGetScale"),
        previous={"a": 6},
    )
    assert scale(scaled("a"), observed).handover == 6


@pytest.mark.parametrize("owner", [labels.MANAGER, labels.HANDOVER_MANAGER, HPA])
def test_a_model_without_replicas_is_started_by_a_handover(owner: str) -> None:
    found = scale(scaled("a", 2, 8), observe(deployment("a", 0, owner=owner)), budget=8)
    assert (found.replicas, found.handover) == (None, 2)
    assert found.autoscaler == AutoscalerBounds(minimum=2, maximum=2)


def test_without_autoscaling_the_operator_takes_the_replicas_back() -> None:
    found = scale(fixed("a", 2), observe(deployment("a", 5, owner=HPA), autoscaler("a", most=9)))
    assert (found.replicas, found.handover, found.autoscaler) == (2, None, None)


@pytest.mark.parametrize("model", [scaled("a"), fixed("a", 2)])
def test_a_foreign_autoscaler_is_named_and_gets_the_replicas(model: dict[str, Any]) -> None:
    stranger = foreign("keda-hpa-a", target="a", owner=("ScaledObject", "a-by-queue"))
    observed = observe(deployment("a", 3), autoscaler("a"), others=[stranger])
    plan = decide(pipeline(model), observed)
    found = plan.scales["a"]
    assert (found.replicas, found.handover, found.autoscaler) == (None, 3, None)
    (finding,) = plan.findings
    assert finding.condition is ConditionType.SCALING_CONFLICT
    assert finding.reason is ConditionReason.FOREIGN_AUTOSCALER
    assert finding.model == "a"
    assert "'keda-hpa-a' of ScaledObject 'a-by-queue' scales Deployment 'shop-a'" in finding.message
    assert "Delete it" in finding.message


@pytest.mark.parametrize("replicas", [0, 3])
def test_replicas_that_were_released_stay_with_the_foreign_autoscaler(replicas: int) -> None:
    observed = observe(deployment("a", replicas, owner=HPA), others=[foreign("x", target="a")])
    for budget in (None, 2):
        found = scale(scaled("a"), observed, budget=budget)
        assert (found.replicas, found.handover, found.autoscaler) == (None, None, None)


def test_an_autoscaler_of_something_else_is_no_conflict() -> None:
    other = foreign("x", target="other")
    other_kind = foreign("y", target="a")
    other_kind["spec"]["scaleTargetRef"]["kind"] = "StatefulSet"
    observed = observe(deployment("a", 1, owner=HPA), others=[other, other_kind])
    assert decide(pipeline(scaled("a")), observed).findings == ()


def test_a_model_that_cannot_be_served_keeps_its_grant_and_writes_nothing() -> None:
    wanted = pipeline(scaled("a", 2), fixed("b", 9), budget={"replicas": 8})
    plan = decide(wanted, unservable=["a"])
    found = plan.scales["a"]
    assert (found.replicas, found.handover, found.autoscaler) == (None, None, None)
    assert found.target == plan.allocation.row("a").granted == 2
    assert plan.scales["b"].replicas == 6
    assert not plan.moving


def test_the_replicas_of_a_running_model_follow_even_if_it_could_not_be_rendered() -> None:
    plan = decide(pipeline(fixed("a", 2)), observe(deployment("a", 5)), unservable=["a"])
    assert plan.scales["a"].replicas == 2


@pytest.mark.parametrize("model", [scaled("a", 2), fixed("a", 2)])
def test_a_deployment_of_somebody_else_is_never_scaled(model: dict[str, Any]) -> None:
    found = scale(model, observe(strangers=[deployment("a", 4)]), budget=4)
    assert (found.replicas, found.handover, found.autoscaler) == (0, None, None)


def test_the_policy_static_grants_what_is_asked_for() -> None:
    wanted = pipeline(fixed("a", 3), scaled("b", 2, 5), policy="static")
    plan = decide(wanted)
    assert plan.scales["a"].replicas == 3
    assert plan.scales["b"].autoscaler == AutoscalerBounds(minimum=2, maximum=5)
    assert not plan.moving
