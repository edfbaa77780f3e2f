"""The order of requests: one writer of replicas, nobody else's objects, one refusal at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from deepseek_api.v1alpha1.conditions import ConditionReason
from deepseek_operator import labels
from deepseek_operator.applying import Applied, apply_objects
from deepseek_operator.cluster import (
    ClusterError,
    Conflict,
    Rejected,
    ServerFault,
    Throttled,
    Unavailable,
)
from deepseek_operator.metrics import Metrics
from deepseek_operator.observed import K8sObject, ObjectKey
from deepseek_operator.plan import ModelScale

from tests.support.fake_cluster import Call, FakeCluster

PIPELINE = {"metadata": {"name": "p", "namespace": "default", "uid": "owner"}}
OWNER = {"apiVersion": "deepseek.ai/v1alpha1", "kind": "ModelPipeline", "name": "p",
         "uid": "owner", "controller": True}  # fmt: skip
HANDOVER = labels.HANDOVER_MANAGER
MAIN = labels.MANAGER


def child(kind: str, name: str = "p-m", **fields: Any) -> K8sObject:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {labels.PIPELINE: "p", labels.MODEL: name.removeprefix("p-")},
            "ownerReferences": [OWNER],
        },
        **fields,
    }


def deployment(replicas: int | None, image: str = "w:1") -> K8sObject:
    spec: dict[str, Any] = {"template": {"image": image}}
    return child("Deployment", spec=spec if replicas is None else {**spec, "replicas": replicas})


def hpa(maximum: int = 5) -> K8sObject:
    return child("HorizontalPodAutoscaler", spec={"maxReplicas": maximum})


def run(cluster: FakeCluster, objects: list[K8sObject], *, handover: int | None = None) -> Applied:
    async def scenario() -> Applied:
        needed = [("Deployment", "p-m")]
        snapshot = await cluster.observe(PIPELINE, needed=needed)
        scale = ModelScale(model="m", replicas=None, handover=handover)
        return await apply_objects(
            cluster, snapshot, objects=objects, scales={"m": scale}, metrics=Metrics()
        )

    return asyncio.run(scenario())


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def test_objects_are_applied_in_their_order_and_only_once(cluster: FakeCluster) -> None:
    objects = [child("ServiceAccount", "p-sa"), child("Service"), deployment(2)]
    run(cluster, objects)
    assert [(call.kind, call.manager) for call in cluster.calls] == [
        ("ServiceAccount", MAIN),
        ("Service", MAIN),
        ("Deployment", MAIN),
    ]
    cluster.calls.clear()
    run(cluster, objects)
    assert cluster.calls == []


def test_what_is_no_longer_wanted_is_deleted_last(cluster: FakeCluster) -> None:
    run(cluster, [child("Service", "p-old"), deployment(2)])
    cluster.calls.clear()
    run(cluster, [deployment(3)])
    assert cluster.calls == [
        Call("apply", "Deployment", "p-m", MAIN),
        Call("delete", "Service", "p-old"),
    ]


def test_an_existing_deployment_is_handed_over_before_its_replicas_are_released(
    cluster: FakeCluster,
) -> None:
    run(cluster, [deployment(3)])
    cluster.calls.clear()
    cluster.replicas_seen.clear()
    run(cluster, [deployment(None, image="w:2"), hpa()], handover=3)
    assert cluster.calls == [
        Call("apply", "Deployment", "p-m", HANDOVER),
        Call("apply", "Deployment", "p-m", MAIN),
        Call("apply", "HorizontalPodAutoscaler", "p-m", MAIN),
    ]
    assert set(cluster.replicas_seen) == {3}


def test_a_new_deployment_is_made_before_its_replicas_are_handed_over(
    cluster: FakeCluster,
) -> None:
    run(cluster, [deployment(None), hpa()], handover=2)
    assert [call.manager for call in cluster.calls] == [MAIN, HANDOVER, MAIN]
    assert cluster.objects["Deployment", "p-m"]["spec"]["replicas"] == 2


def test_without_its_handover_a_deployment_keeps_its_replicas(cluster: FakeCluster) -> None:
    run(cluster, [deployment(3)])
    cluster.failures["apply", "Deployment"] = Conflict("again")
    applied = run(cluster, [deployment(None, image="w:2")], handover=3)
    assert [call.manager for call in cluster.calls] == [MAIN, HANDOVER]
    assert applied.retry
    assert cluster.objects["Deployment", "p-m"]["spec"]["replicas"] == 3


def test_an_own_autoscaler_is_deleted_before_replicas_are_written(cluster: FakeCluster) -> None:
    run(cluster, [deployment(None), hpa()])
    cluster.calls.clear()
    run(cluster, [deployment(0)])
    assert cluster.calls == [
        Call("delete", "HorizontalPodAutoscaler", "p-m"),
        Call("apply", "Deployment", "p-m", MAIN),
    ]


def test_while_an_own_autoscaler_stays_its_replicas_are_not_written(cluster: FakeCluster) -> None:
    run(cluster, [deployment(None), hpa()])
    cluster.calls.clear()
    cluster.failures["delete", "HorizontalPodAutoscaler"] = Rejected("forbidden")
    applied = run(cluster, [child("Service"), deployment(0)])
    assert [call.kind for call in cluster.calls] == ["HorizontalPodAutoscaler", "Service"]
    assert [finding.model for finding in applied.findings] == ["m"]


@pytest.mark.parametrize("error", [Rejected("too much"), ServerFault("webhook is down")])
def test_a_refusal_of_one_kind_stops_no_other_and_keeps_the_servers_words(
    cluster: FakeCluster, error: ClusterError
) -> None:
    cluster.failures["apply", "Service"] = error
    applied = run(cluster, [child("ServiceAccount"), child("Service"), deployment(2)])
    assert [call.kind for call in cluster.calls] == ["ServiceAccount", "Service", "Deployment"]
    [finding] = applied.findings
    assert finding.reason is ConditionReason.REJECTED_BY_SERVER
    assert str(error) in finding.message
    assert finding.model == "m"
    assert applied.retry is isinstance(error, ServerFault)


def test_a_conflict_is_tried_again_and_nobody_is_told(cluster: FakeCluster) -> None:
    cluster.failures["apply", "Service"] = Conflict("changed")
    applied = run(cluster, [child("Service"), deployment(2)])
    assert applied.retry
    assert applied.findings == ()
    assert ("Deployment", "p-m") in cluster.objects


@pytest.mark.parametrize("error", [Unavailable("down"), Throttled("slow", retry_after_s=3)])
def test_a_server_that_does_not_answer_is_asked_once(
    cluster: FakeCluster, error: ClusterError
) -> None:
    cluster.failures["apply", "Service"] = error
    with pytest.raises(type(error)):
        run(cluster, [child("Service"), deployment(2)])
    assert len(cluster.calls) == 1


@pytest.mark.parametrize("kind", ["Service", "Deployment"])
@pytest.mark.parametrize("owner", [None, {**OWNER, "uid": "another"}], ids=["nobody", "another"])
def test_an_object_of_somebody_else_is_never_touched(
    cluster: FakeCluster, kind: str, owner: dict[str, Any] | None
) -> None:
    metadata = {"ownerReferences": [owner] if owner else [], "uid": "theirs"}
    before = cluster.put(kind, "p-m", metadata=metadata, spec={})
    applied = run(cluster, [child("Service"), deployment(2)], handover=2)
    assert cluster.objects[kind, "p-m"] is before
    assert kind not in {call.kind for call in cluster.calls}
    [finding] = applied.findings
    assert finding.reason is ConditionReason.FOREIGN_OBJECT
    assert set(applied.observed.strangers) == {(kind, "p-m")}


class Racing(FakeCluster):
    """Somebody else creates a Service after it was looked for."""

    async def find(self, namespace: str, keys: Iterable[ObjectKey]) -> dict[ObjectKey, K8sObject]:
        found = await super().find(namespace, keys)
        self.put("Service", "p-m", spec={"theirs": True})
        return found


def test_an_object_that_appears_after_it_was_looked_for_is_not_taken_over() -> None:
    cluster = Racing()
    applied = run(cluster, [child("Service"), deployment(2)])
    theirs = cluster.objects["Service", "p-m"]
    assert theirs["spec"] == {"theirs": True}
    assert "ownerReferences" not in theirs["metadata"]
    assert applied.retry
    applied = run(cluster, [child("Service"), deployment(2)])
    assert [finding.reason for finding in applied.findings] == [ConditionReason.FOREIGN_OBJECT]


def test_an_own_object_without_its_label_is_recognised_by_its_owner(cluster: FakeCluster) -> None:
    run(cluster, [child("Service")])
    del cluster.objects["Service", "p-m"]["metadata"]["labels"][labels.PIPELINE]
    applied = run(cluster, [child("Service")])
    assert applied.findings == ()
    assert labels.PIPELINE in cluster.objects["Service", "p-m"]["metadata"]["labels"]


def test_a_kind_that_cannot_be_listed_is_left_as_it_is_and_named(cluster: FakeCluster) -> None:
    run(cluster, [child("Service", "p-old"), deployment(1)])
    cluster.calls.clear()
    cluster.refused["Service"] = "services is forbidden"
    applied = run(cluster, [child("Service"), deployment(2)])
    assert [call.kind for call in cluster.calls] == ["Deployment"]
    [finding] = applied.findings
    assert "services is forbidden" in finding.message


@pytest.mark.parametrize("kind", ["Pod", "Deployment", "HorizontalPodAutoscaler"])
def test_who_cannot_see_what_scales_moves_no_replicas(cluster: FakeCluster, kind: str) -> None:
    run(cluster, [deployment(1), hpa(5)])
    cluster.calls.clear()
    cluster.refused[kind] = f"{kind} is forbidden"
    run(cluster, [deployment(2), child("Service")])
    assert {call.kind for call in cluster.calls} == {"Service"}


def test_what_was_applied_is_seen_afterwards(cluster: FakeCluster) -> None:
    run(cluster, [deployment(1), hpa(5), child("Service", "p-old")])
    applied = run(cluster, [deployment(2), child("Service")])
    children = applied.observed.children
    assert set(children) == {("Deployment", "p-m"), ("Service", "p-m")}
    assert children["Deployment", "p-m"]["spec"]["replicas"] == 2
    assert applied.observed.autoscalers == ()
