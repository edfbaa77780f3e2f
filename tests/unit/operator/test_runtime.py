"""Which pipeline an object matters to, and when the operator counts as alive."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yarl
from deepseek_operator.config import OperatorConfig
from deepseek_operator.labels import PIPELINE
from deepseek_operator.liveness import STALLED_S, Liveness, Unhealthy, WatchedPaths
from deepseek_operator.resources import WATCHED_KINDS, collection_path
from deepseek_operator.runtime import Runtime, resync_offset, unanswered
from deepseek_operator.workqueue import Outcome, WorkQueue

from tests.support.fake_cluster import FakeCluster
from tests.unit.operator.test_reconcile import manifest

OWNER = {"apiVersion": "deepseek.ai/v1alpha1", "kind": "ModelPipeline", "name": "p", "uid": "u",
         "controller": True}  # fmt: skip
SET = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}


def item(kind: str, *, owner: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    metadata = {"name": "x", "namespace": "default", "ownerReferences": [owner] if owner else []}
    return {"kind": kind, "metadata": metadata | fields.pop("metadata", {}), **fields}


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    cluster = FakeCluster()
    source = {"uri": "oci://registry.example/x"}
    model = {"name": "m", "type": "NLP", "task": "text-embedding", "source": source}
    cluster.put_pipeline(manifest(model))
    runtime = Runtime(cluster, OperatorConfig(images={"cpu": "w:1"}))
    asyncio.run(runtime.reconciler.reconcile(("default", "p")))
    return runtime


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (item("ModelPipeline", metadata={"generation": 1}), True),
        (item("ModelPipeline", metadata={"generation": 2}, status={"observedGeneration": 1}), True),
        (
            item("ModelPipeline", metadata={"generation": 2}, status={"observedGeneration": 2}),
            False,
        ),
        (item("Deployment", owner=OWNER, metadata={"generation": 2}), False),
    ],
    ids=["new", "edited", "answered", "child"],
)
def test_a_pipeline_waits_for_an_answer_until_its_status_is_of_its_generation(
    body: dict[str, Any], expected: bool
) -> None:
    assert unanswered(body) is expected


def test_what_a_person_applied_goes_before_what_the_cluster_reports(runtime: Runtime) -> None:
    runtime.changed(item("Service", owner=OWNER))
    runtime.changed(item("ModelPipeline", metadata={"name": "new", "generation": 1}))
    assert runtime.queue.take() == ("default", "new")


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (item("ModelPipeline"), ("default", "x")),
        (item("Service", owner=OWNER), ("default", "p")),
        (item("Pod", owner=SET, metadata={"labels": {PIPELINE: "p"}}), ("default", "p")),
        (item("Service", owner={**OWNER, "apiVersion": "other.io/v1"}), None),
        (item("HorizontalPodAutoscaler",
              spec={"scaleTargetRef": {"kind": "Deployment", "name": "p-m"}}), ("default", "p")),
        (item("HorizontalPodAutoscaler",
              spec={"scaleTargetRef": {"kind": "Deployment", "name": "other"}}), None),
        (item("HorizontalPodAutoscaler",
              spec={"scaleTargetRef": {"kind": "StatefulSet", "name": "p-m"}}), None),
    ],
    ids=["pipeline", "child", "pod", "other API", "foreign autoscaler", "unrelated", "other kind"],
)  # fmt: skip
def test_an_object_leads_to_its_pipeline(
    runtime: Runtime, body: dict[str, Any], key: tuple[str, str] | None
) -> None:
    assert runtime.key_of(body) == key
    runtime.changed(body)
    assert runtime.queue.take() == key


PERIOD_S = 600.0
KEYS = [("default", f"p{number}") for number in range(500)]


def resynced(*, waits: list[float]) -> dict[tuple[str, str], list[float]]:
    """When each of the pipelines is looked at, if they are listed again after these waits."""
    now = 0.0
    queue = WorkQueue(lambda: now)
    looks: dict[tuple[str, str], list[float]] = {key: [] for key in KEYS}
    lists = [sum(waits[:number]) for number in range(len(waits) + 1)]
    while lists or queue.next_due() is not None:
        now = min(time for time in (*lists[:1], queue.next_due()) if time is not None)
        if lists and lists[0] <= now:
            lists.pop(0)
            for key in KEYS:
                queue.add(key, after_s=resync_offset(key, PERIOD_S))
        while taken := queue.take():
            looks[taken].append(now)
            queue.finish(taken, Outcome())
    return looks


def test_a_resync_is_spread_evenly_over_its_whole_period() -> None:
    times = [first for first, *_ in resynced(waits=[]).values()]
    assert 0 <= min(times) <= max(times) < PERIOD_S
    for start in range(0, 540, 60):
        assert 25 <= sum(start <= time < start + 60 for time in times) <= 90


@pytest.mark.parametrize("wait", [0.9, 1.0, 1.1])
def test_between_two_resyncs_of_a_pipeline_lies_one_period(wait: float) -> None:
    looks = resynced(waits=[wait * PERIOD_S] * 3)
    for times in looks.values():
        assert len(times) == 4
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps == pytest.approx([wait * PERIOD_S] * 3)


def test_a_resync_that_waits_for_its_time_is_not_stuck() -> None:
    world = World().watch_all()
    for key in KEYS:
        world.queue.add(key, after_s=resync_offset(key, PERIOD_S))
    while world.queue.next_due() is not None:
        world.now = max(world.now, world.queue.next_due() or 0.0)
        world.liveness.resync_turned()
        world.liveness.check()
        if taken := world.queue.take():
            world.queue.finish(taken, Outcome())


class World:
    def __init__(self, namespaces: tuple[str, ...] = ()) -> None:
        self.now = 1000.0
        self.queue = WorkQueue(lambda: self.now)
        self.watched = WatchedPaths(namespaces)
        self.liveness = Liveness(
            lambda: self.now, queue=self.queue, watched=self.watched, resync_s=100
        )

    def watch(self, path: str, *, status: int = 200, query: str = "watch=true") -> None:
        request: Any = SimpleNamespace(url=yarl.URL(f"https://server{path}?{query}"))

        async def answer(_: Any) -> Any:
            return SimpleNamespace(status=status)

        asyncio.run(self.watched(request, answer))

    def watch_all(self) -> World:
        for path in self.watched.missing:
            self.watch(path)
        return self


@pytest.mark.parametrize("namespaces", [(), ("one", "two")])
def test_the_operator_is_alive_only_when_every_kind_is_watched_everywhere(
    namespaces: tuple[str, ...],
) -> None:
    world = World(namespaces)
    paths = [collection_path(kind, n) for kind in WATCHED_KINDS for n in namespaces or (None,)]
    for path in paths:
        with pytest.raises(Unhealthy, match=path):
            world.liveness.check()
        world.watch(path)
    world.liveness.check()


@pytest.mark.parametrize(("status", "query"), [(403, "watch=true"), (200, "limit=500")])
def test_a_refused_watch_or_a_list_alone_does_not_count(status: int, query: str) -> None:
    world = World()
    for path in world.watched.missing:
        world.watch(path, status=status, query=query)
    with pytest.raises(Unhealthy, match="never listed and watched"):
        world.liveness.check()


def test_a_queue_that_stands_still_is_not_alive() -> None:
    world = World().watch_all()
    world.queue.add(("default", "p"))
    world.now += STALLED_S + 1
    world.liveness.resync_turned()
    with pytest.raises(Unhealthy, match="No pipeline was finished"):
        world.liveness.check()


def test_a_resync_that_stands_still_is_not_alive() -> None:
    world = World().watch_all()
    world.now += 3 * 100 + STALLED_S + 1
    with pytest.raises(Unhealthy, match="not listed again"):
        world.liveness.check()
    world.liveness.resync_turned()
    world.liveness.check()
