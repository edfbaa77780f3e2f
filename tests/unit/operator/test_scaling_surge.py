"""When a rollout may start a new replica before an old one goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_operator.config import OperatorConfig
from deepseek_operator.observed import K8sObject
from deepseek_operator.scaling import device_count_age

from tests.support.scaling import (
    decide,
    deployment,
    fixed,
    observe,
    pipeline,
    pods,
    resolve,
    unschedulable,
)

GPU = "nvidia.com/gpu"
ROLLING = {"updatedReplicas": 1, "replicas": 3}


def surge(wanted: ModelPipeline, *children: K8sObject, **snapshot: Any) -> dict[str, int]:
    plan = decide(wanted, observe(*children, **snapshot))
    return {name: scale.max_surge for name, scale in plan.scales.items()}


def test_a_cpu_model_without_a_budget_surges() -> None:
    assert surge(pipeline(fixed("a", 2))) == {"a": 1}
    assert surge(pipeline(fixed("a", 2)), deployment("a", 2)) == {"a": 1}


@pytest.mark.parametrize(("budget", "expected"), [(2, 0), (3, 1)])
def test_a_surge_needs_room_in_the_budget(budget: int, expected: int) -> None:
    wanted = pipeline(fixed("a", 2), budget={"replicas": budget})
    assert surge(wanted, deployment("a", 2)) == {"a": expected}


def test_replicas_that_end_leave_no_room_for_a_surge() -> None:
    wanted = pipeline(fixed("a", 2), budget={"replicas": 3})
    assert surge(wanted, deployment("a", 2), pods=pods("a", running=2, ending=1)) == {"a": 0}


def test_one_free_replica_is_promised_once_and_to_the_model_that_needs_it_most() -> None:
    wanted = pipeline(
        fixed("a", 3), fixed("b", 1), weights={"a": 0.9, "b": 0.1}, budget={"replicas": 5}
    )
    assert surge(wanted, deployment("a", 3), deployment("b", 1)) == {"a": 0, "b": 1}
    wider = pipeline(
        fixed("a", 3), fixed("b", 1), weights={"a": 0.9, "b": 0.1}, budget={"replicas": 6}
    )
    assert surge(wider, deployment("a", 3), deployment("b", 1)) == {"a": 1, "b": 1}


def test_nothing_is_kept_free_for_a_model_without_replicas() -> None:
    wanted = pipeline(fixed("a", 0), fixed("b", 1), budget={"replicas": 2})
    assert surge(wanted, deployment("a", 0), deployment("b", 1))["b"] == 1


@pytest.mark.parametrize(
    ("spare", "expected"),
    [(None, 0), ({}, 0), ({GPU: 0}, 0), ({GPU: 1}, 0), ({GPU: 2}, 1), ({"amd.com/gpu": 8}, 0)],
)
def test_a_gpu_model_surges_only_if_one_node_has_its_devices(
    spare: Mapping[str, int] | None, expected: int
) -> None:
    model = fixed("a", 1, device="cuda", parallelism={"tensor": 2, "pipeline": 1})
    live = deployment("a", 1, gpus=2)
    assert surge(pipeline(model), live, spare=spare) == {"a": expected}
    roomy = pipeline(model, budget={"gpus": 4})
    assert surge(roomy, live, spare=spare) == {"a": expected}
    full = pipeline(model, budget={"gpus": 2})
    assert surge(full, live, spare=spare) == {"a": 0}


@pytest.mark.parametrize("live", [0, 1])
def test_without_a_count_of_devices_a_model_at_rest_keeps_its_strategy(live: int) -> None:
    wanted = pipeline(fixed("a", 1, device="cuda"))
    resting = deployment("a", 1, gpus=1, surge=live)
    assert surge(wanted, resting, spare=None) == {"a": live}
    full = pipeline(fixed("a", 1, device="cuda"), budget={"gpus": 1})
    assert surge(full, resting, spare=None) == {"a": 0}


MIDWAY = {"updatedReplicas": 1, "replicas": 3}
BEFORE_THE_LAST = {"updatedReplicas": 3, "replicas": 3}


def placed(name: str, count: int) -> list[K8sObject]:
    found = pods(name, running=count, gpus=1)
    for pod in found:
        pod["spec"] = {**pod["spec"], "nodeName": "n"}
    return found


WAITING = pods("a", running=1, phase="Pending")
ENDING = [{**pod, "spec": {"nodeName": "n"}} for pod in pods("a", ending=1)]
GAINS: dict[str, tuple[dict[str, int], list[K8sObject], Mapping[str, int] | None, int]] = {
    "a device became free": (MIDWAY, placed("a", 3), {GPU: 1}, 1),
    "no device is free": (MIDWAY, placed("a", 3), {GPU: 0}, 0),
    "devices were not counted": (MIDWAY, placed("a", 3), None, 0),
    "its own replica is about to take it": (MIDWAY, placed("a", 2) + WAITING, {GPU: 1}, 0),
    "an old replica still ends": (MIDWAY, placed("a", 3) + ENDING, {GPU: 1}, 1),
    "a replica is not made yet": (MIDWAY, placed("a", 2), {GPU: 1}, 0),
    "nothing old is left": (BEFORE_THE_LAST, placed("a", 3), {GPU: 1}, 0),
    "its controller has not looked yet": ({"observedGeneration": 0}, placed("a", 3), {GPU: 1}, 0),
}


@pytest.mark.parametrize("case", GAINS)
def test_a_rollout_that_began_without_a_spare_device_takes_the_next_one(case: str) -> None:
    status, replicas, spare, expected = GAINS[case]
    rolling = deployment("a", 3, gpus=1, status=status)
    wanted = pipeline(fixed("a", 3, device="cuda"))
    if case == "nothing old is left":
        rolling["status"]["replicas"] = 4
    assert surge(wanted, rolling, pods=replicas, spare=spare) == {"a": expected}


def test_a_device_that_became_free_needs_room_in_the_budget_as_well() -> None:
    rolling = deployment("a", 3, gpus=1, status=MIDWAY)
    model = fixed("a", 3, device="cuda")
    for budget, expected in ((3, 0), (4, 1)):
        wanted = pipeline(model, budget={"gpus": budget})
        found = surge(wanted, rolling, pods=placed("a", 3), spare={GPU: 1})
        assert found == {"a": expected}


def test_a_rollout_without_a_spare_device_looks_for_one_again() -> None:
    rolling = deployment("a", 3, gpus=1, status=MIDWAY)
    wanted = pipeline(fixed("a", 3, device="cuda"))
    plan = decide(wanted, observe(rolling, pods=placed("a", 3), spare={GPU: 0}))
    assert plan.requeue_after_s == 5
    plan = decide(wanted, observe(deployment("a", 3, gpus=1), spare={GPU: 0}))
    assert plan.requeue_after_s is None


RESTING = deployment("a", 3, gpus=1)
ROLLING_ON = deployment("a", 3, gpus=1, status=MIDWAY)
AGES: dict[str, tuple[dict[str, Any], K8sObject | None, set[str], float | None]] = {
    "about to be replaced": ({"device": "cuda"}, RESTING, {"a"}, 0.0),
    "at rest": ({"device": "cuda"}, RESTING, set(), None),
    "about to be made": ({"device": "cuda"}, None, set(), None),
    "without replicas": ({"device": "cuda"}, deployment("a", 0, gpus=1), {"a"}, None),
    "without devices": ({"device": "cpu"}, RESTING, {"a"}, None),
    "of a device without a resource": ({"device": "rocm"}, RESTING, {"a"}, None),
    "rolling out without a surge": ({"device": "cuda"}, ROLLING_ON, set(), 2.0),
    "rolling out with a surge": (
        {"device": "cuda"},
        deployment("a", 3, gpus=1, surge=1, status=MIDWAY),
        set(),
        None,
    ),
}


@pytest.mark.parametrize("case", AGES)
def test_devices_are_counted_only_where_they_decide(case: str) -> None:
    fields, live, replaced, expected = AGES[case]
    wanted = pipeline(fixed("a", 3, **fields))
    children = [live] if live is not None else []
    age = device_count_age(
        resolve(wanted),
        observed=observe(*children, pods=placed("a", 3)),
        config=OperatorConfig(),
        replaced=replaced,
    )
    assert age == expected


def test_devices_that_have_no_resource_name_are_never_short() -> None:
    wanted = pipeline(fixed("a", 1, device="cuda"))
    config = OperatorConfig(device_resources={})
    assert decide(wanted, observe(spare={}), config=config).scales["a"].max_surge == 1


@pytest.mark.parametrize("live", [0, 1, "0%", "25%"])
@pytest.mark.parametrize(
    "status",
    [
        {"updatedReplicas": 1, "replicas": 2},
        {"updatedReplicas": 2, "replicas": 3},
        {"observedGeneration": 0},
    ],
)
def test_the_strategy_does_not_change_during_a_rollout(
    live: int | str, status: dict[str, int]
) -> None:
    rolling = deployment("a", 2, surge=live, status=status)
    expected = 0 if live in (0, "0%") else 1
    assert surge(pipeline(fixed("a", 2)), rolling) == {"a": expected}
    tight = pipeline(fixed("a", 2), budget={"replicas": 2})
    assert surge(tight, rolling) == {"a": expected}


def test_a_rollout_that_finds_no_node_for_its_surge_goes_on_without() -> None:
    wanted = pipeline(fixed("a", 2))
    rolling = deployment("a", 2, surge=1, status=ROLLING)
    stuck = unschedulable("a", since="2026-05-04T09:59:50Z")
    assert surge(wanted, rolling, pods=[stuck]) == {"a": 0}
    assert surge(wanted, rolling, pods=[unschedulable("a", since=None)]) == {"a": 0}


def test_a_surge_that_has_only_just_found_no_node_is_given_time() -> None:
    rolling = deployment("a", 2, surge=1, status=ROLLING)
    stuck = unschedulable("a", since="2026-05-04T09:59:56Z")
    plan = decide(pipeline(fixed("a", 2)), observe(rolling, pods=[stuck]))
    assert plan.scales["a"].max_surge == 1
    assert plan.requeue_after_s == 6


def test_a_surge_waits_for_replicas_that_end() -> None:
    rolling = deployment("a", 2, surge=1, status=ROLLING)
    waiting = [unschedulable("a", since=None), *pods("a", ending=1)]
    assert surge(pipeline(fixed("a", 2)), rolling, pods=waiting) == {"a": 1}


def test_a_rollout_with_surge_keeps_its_replica_from_the_others() -> None:
    wanted = pipeline(
        fixed("a", 2), fixed("b", 2), weights={"a": 0.5, "b": 0.5}, budget={"replicas": 4}
    )
    children = [deployment("a", 2, surge=1, status={"updatedReplicas": 0}), deployment("b", 1)]
    plan = decide(wanted, observe(*children))
    assert plan.scales["b"].replicas == 1
    assert plan.moving
    done = [deployment("a", 2, surge=1), deployment("b", 1)]
    plan = decide(wanted, observe(*done))
    assert plan.scales["b"].replicas == 2
    assert plan.scales["a"].max_surge == 0
