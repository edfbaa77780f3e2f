"""One look at a pipeline, with everything real but the cluster."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from deepseek_api.catalog import builtin_catalog
from deepseek_operator.cluster import (
    ClusterError,
    Conflict,
    NotFound,
    Rejected,
    ServerFault,
    Throttled,
    Unavailable,
)
from deepseek_operator.config import OperatorConfig
from deepseek_operator.labels import MODEL as MODEL_LABEL
from deepseek_operator.metrics import Metrics
from deepseek_operator.reconcile import Clock, Reconciler, merge_patch
from deepseek_operator.workqueue import Outcome
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_cluster import FakeCluster

KEY = ("default", "p")
SOURCE = {"uri": "oci://registry.example/bundle@sha256:" + "1" * 64}
MODEL = {"name": "m", "type": "NLP", "task": "text-embedding", "replicas": 2, "source": SOURCE}


def manifest(*models: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "deepseek.ai/v1alpha1",
        "kind": "ModelPipeline",
        "metadata": {"name": "p"},
        "spec": {"models": list(models or (MODEL,))},
    }


class World:
    """A cluster, a reconciler and a clock."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.metrics = Metrics()
        self.seconds = 1000.0
        self.reconciler = Reconciler(
            cluster=self.cluster,
            config=OperatorConfig(
                images={kind: f"registry.example/{kind}:1" for kind in ("cpu", "cuda")}
            ),
            catalog=builtin_catalog,
            clock=Clock(
                monotonic=lambda: self.seconds,
                now=lambda: datetime.fromtimestamp(1_800_000_000 + self.seconds, UTC),
            ),
            metrics=self.metrics,
        )

    def run(self, key: tuple[str, str] = KEY) -> Outcome:
        self.seconds += 1
        return asyncio.run(self.reconciler.reconcile(key))

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.pipelines["p"].get("status", {})
        return found

    def condition(self, kind: str) -> dict[str, Any]:
        return next(item for item in self.status()["conditions"] if item["type"] == kind)

    def result(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(
            "deepseek_operator_reconcile_total", {"result": name}
        )
        return value or 0.0


@pytest.fixture
def world() -> World:
    return World()


def test_a_new_pipeline_gets_its_children_and_a_status(world: World) -> None:
    world.cluster.put_pipeline(manifest())
    outcome = world.run()
    assert not outcome.failed
    assert world.cluster.objects["Deployment", "p-m"]["spec"]["replicas"] == 2
    assert world.status()["observedGeneration"] == 1
    assert world.condition("Ready")["status"] == "False"
    assert world.result("ok") == 1


def test_a_second_look_changes_nothing(world: World) -> None:
    world.cluster.put_pipeline(manifest())
    world.run()
    world.run()
    world.cluster.calls.clear()
    world.run()
    assert world.cluster.calls == []


def test_a_changed_spec_is_applied(world: World) -> None:
    world.cluster.put_pipeline(manifest())
    world.run()
    world.cluster.put_pipeline(manifest({**MODEL, "replicas": 5}))
    world.run()
    assert world.cluster.objects["Deployment", "p-m"]["spec"]["replicas"] == 5
    assert world.status()["observedGeneration"] == 2


def test_a_removed_model_takes_its_children_along(world: World) -> None:
    world.cluster.put_pipeline(manifest(MODEL, {**MODEL, "name": "n"}))
    world.run()
    world.cluster.put_pipeline(manifest())
    world.run()
    assert not [name for _, name in world.cluster.objects if name.startswith("p-n")]
    assert ("Deployment", "p-m") in world.cluster.objects


def test_replicas_pass_to_an_autoscaler_and_back_without_a_dip(world: World) -> None:
    world.cluster.put_pipeline(manifest({**MODEL, "replicas": 3}))
    world.run()
    world.cluster.replicas_seen.clear()
    scaled = {**MODEL, "replicas": 3, "autoscaling": {"minReplicas": 1, "maxReplicas": 5}}
    world.cluster.put_pipeline(manifest(scaled))
    world.run()
    world.run()
    assert ("HorizontalPodAutoscaler", "p-m") in world.cluster.objects
    assert world.cluster.objects["Deployment", "p-m"]["metadata"]["replicasOwners"] == [
        "deepseek-operator-handover"
    ]
    world.cluster.put_pipeline(manifest({**MODEL, "replicas": 3}))
    world.run()
    assert ("HorizontalPodAutoscaler", "p-m") not in world.cluster.objects
    assert set(world.cluster.replicas_seen) == {3}


@pytest.mark.parametrize("deleting", [False, True])
def test_a_pipeline_that_goes_is_left_to_its_owner_references(world: World, deleting: bool) -> None:
    if deleting:
        stored = world.cluster.put_pipeline(manifest())
        stored["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert world.run() == Outcome()
    assert world.cluster.calls == []
    assert world.result("gone") == 1


def test_a_stored_pipeline_that_cannot_be_read_changes_nothing_and_says_so(world: World) -> None:
    world.cluster.put_pipeline(manifest())
    world.run()
    before = dict(world.cluster.objects)
    world.cluster.put_pipeline(manifest({**MODEL, "replicas": -1}))
    assert not world.run().failed
    assert world.cluster.objects == before
    assert world.condition("Ready")["status"] == "False"
    assert world.cluster.events[-1]["type"] == "Warning"
    assert world.result("invalid") == 1


@pytest.mark.parametrize("error", [Rejected("quota exceeded"), ServerFault("webhook is down")])
def test_a_refused_child_shows_in_status_and_stops_no_other(
    world: World, error: ClusterError
) -> None:
    world.cluster.put_pipeline(manifest())
    world.cluster.failures["apply", "Service"] = error
    outcome = world.run()
    assert ("Deployment", "p-m") in world.cluster.objects
    assert world.condition("ChildRejected")["status"] == "True"
    assert str(error) in world.condition("ChildRejected")["message"]
    assert outcome.failed or (outcome.requeue_after_s or 99) <= 30
    world.cluster.failures.clear()
    world.run()
    assert world.condition("ChildRejected")["status"] == "False"


@pytest.mark.parametrize(
    ("where", "error"),
    [
        (("get", "ModelPipeline"), Unavailable("down")),
        (("apply", "Service"), Unavailable("down")),
        (("apply", "Service"), Conflict("changed")),
        (("status", "ModelPipeline"), Conflict("changed")),
    ],
)
def test_what_may_work_later_is_tried_again(
    world: World, where: tuple[str, str], error: ClusterError
) -> None:
    world.cluster.put_pipeline(manifest())
    world.cluster.failures[where] = error
    assert world.run().failed
    assert world.result("retry") == 1
    world.cluster.failures.clear()
    assert not world.run().failed


def test_a_pipeline_that_is_deleted_during_a_look_is_no_failure(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.cluster.put_pipeline(manifest())
    world.cluster.failures["status", "ModelPipeline"] = NotFound("modelpipelines 'p' not found")
    assert not world.run().failed
    assert world.cluster.events == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    del world.cluster.pipelines["p"]
    assert world.run() == Outcome()


def test_a_throttling_server_gets_the_wait_that_it_asks_for(world: World) -> None:
    world.cluster.put_pipeline(manifest())
    world.cluster.failures["apply", "Deployment"] = Throttled("slow", retry_after_s=9)
    assert world.run() == Outcome(failed=True, hold_s=9)


def test_an_event_that_cannot_be_written_harms_nothing(world: World) -> None:
    world.cluster.put_pipeline(manifest())
    world.cluster.failures["event", "Event"] = Rejected("forbidden")
    assert not world.run().failed


def test_events_name_the_pipeline_and_have_names_of_their_own(world: World) -> None:
    world.cluster.put_pipeline(manifest(MODEL, {**MODEL, "name": "n"}))
    world.run()
    names = [event["metadata"]["name"] for event in world.cluster.events]
    assert names
    assert len(set(names)) == len(names)
    for event in world.cluster.events:
        assert event["regarding"]["name"] == "p"
        assert event["eventTime"].endswith("Z")


def test_a_defect_is_counted_and_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.cluster.put_pipeline(manifest())

    def broken(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("deepseek_operator.reconcile.render", broken)
    assert world.run().failed
    assert world.result("error") == 1


def set_up(world: World) -> World:
    """A replica that is on its node and has not started."""
    world.cluster.pods = [
        {
            "metadata": {"name": "p-m-1", "labels": {MODEL_LABEL: "m"}},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Pending"},
        }
    ]
    return world


def waits_of(world: World, *, seconds: float) -> dict[float, float]:
    """The waits until the next look, by the time since the first one."""
    waits, started = {}, world.seconds
    while world.seconds - started < seconds:
        wait = world.run().requeue_after_s or 99
        waits[world.seconds - started] = wait
        world.seconds += wait
    return waits


def test_many_events_do_not_make_the_look_for_causes_come_later(world: World) -> None:
    set_up(world).cluster.put_pipeline(manifest())
    waits = [world.run().requeue_after_s or 99 for _ in range(120)]
    assert waits[0] == 2
    assert max(waits) <= 5


def test_while_a_replica_is_set_up_the_pauses_between_looks_grow_with_time(world: World) -> None:
    set_up(world).cluster.put_pipeline(manifest())
    waits = waits_of(world, seconds=3600)
    assert list(waits.values()) == sorted(waits.values())
    assert all(wait <= 5 for age, wait in waits.items() if age <= 300)
    assert next(wait for age, wait in waits.items() if age > 1900) == 30


def test_while_events_cannot_tell_anything_the_looks_soon_become_rare(world: World) -> None:
    world.cluster.put_pipeline(manifest())
    waits = waits_of(world, seconds=300)
    assert list(waits.values()) == sorted(waits.values())
    assert next(iter(waits.values())) == 2
    assert len(waits) < 20
    assert next(wait for age, wait in waits.items() if age > 70) == 30


def test_another_status_brings_the_short_pauses_back(world: World) -> None:
    set_up(world).cluster.put_pipeline(manifest())
    world.run()
    world.seconds += 3600
    assert world.run().requeue_after_s == 30
    world.cluster.failures["apply", "Service"] = Rejected("quota exceeded")
    world.cluster.objects.pop(("Service", "p-m"))
    assert world.run().requeue_after_s == 2
    assert world.run().requeue_after_s == 2


def test_many_pipelines_share_the_looks_for_causes(world: World) -> None:
    set_up(world)
    for number in range(40):
        world.cluster.put_pipeline({**manifest(), "metadata": {"name": f"p{number}"}})
        outcome = world.run((KEY[0], f"p{number}"))
        world.cluster.objects.clear()
    assert outcome.requeue_after_s == 8


GPU_MODEL = {**MODEL, "device": "cuda"}


def at_rest(world: World) -> dict[str, Any]:
    """The Deployment, once its controller has done its work."""
    live = world.cluster.objects["Deployment", "p-m"]
    live["status"] = {"replicas": 2, "updatedReplicas": 2}
    return live


@pytest.mark.parametrize("spare", [0, 1])
def test_devices_are_counted_at_the_moment_in_which_a_template_changes(
    world: World, spare: int
) -> None:
    world.cluster.put_pipeline(manifest(GPU_MODEL))
    world.run()
    before = at_rest(world)["spec"]["template"]
    world.run()
    assert world.cluster.counts == []
    world.cluster.spare = {"nvidia.com/gpu": spare}
    world.cluster.put_pipeline(manifest({**GPU_MODEL, "batching": {"maxBatchSize": 4}}))
    world.run()
    assert world.cluster.counts == [0]
    after = world.cluster.objects["Deployment", "p-m"]["spec"]
    assert after["template"] != before
    assert after["strategy"]["rollingUpdate"] == {"maxSurge": spare, "maxUnavailable": 1 - spare}
    at_rest(world)
    world.run()
    assert world.cluster.counts == [0]
    assert world.cluster.objects["Deployment", "p-m"]["spec"]["strategy"] == after["strategy"]


def test_a_deployment_leads_to_the_pipeline_that_needs_it(world: World) -> None:
    world.cluster.put_pipeline(manifest())
    world.run()
    assert world.reconciler.pipeline_of("default", "p-m") == KEY
    assert world.reconciler.pipeline_of("default", "other") is None
    assert world.reconciler.pipeline_of("elsewhere", "p-m") is None
    del world.cluster.pipelines["p"]
    world.run()
    assert world.reconciler.pipeline_of("default", "p-m") is None


LEAVES = st.integers(0, 3) | st.just("x") | st.lists(st.integers(0, 1), max_size=2)
INNER = st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=3)
VALUES = LEAVES | INNER | st.dictionaries(st.sampled_from("abc"), LEAVES | INNER, max_size=3)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)


def merged(old: Any, patch: Any) -> Any:
    """A JSON merge patch, as the standard defines it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(old=OBJECTS, new=OBJECTS)
def test_the_merge_patch_leads_from_the_old_to_the_new_status(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    patch = merge_patch(old, new)
    assert merged(old, patch) == new
    assert (patch == {}) is (old == new)
