"""A sampler reads off objects what its samples say, and counts what it could not read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.forced_reconciles import Counters, followed
from tests.support.cluster import ApiRefused, eventually
from tests.support.cluster_sampler import Sampler, ownerless, replica_writers

LABELS = {"deepseek.ai/pipeline": "p", "deepseek.ai/model": "m"}


def thing(name: str, uid: str, owner: str | None, **more: Any) -> dict[str, Any]:
    owners = [] if owner is None else [{"uid": owner}]
    return {
        "metadata": {"name": name, "uid": uid, "labels": LABELS, "ownerReferences": owners},
        **more,
    }


DEPLOYMENT = thing("p-m", "d1", "p1", spec={"replicas": 2})
DEPLOYMENT["metadata"]["managedFields"] = [
    {"manager": "deepseek-operator", "fieldsV1": {"f:spec": {"f:template": {}}}},
    {"manager": "kube-controller-manager", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
]
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
OBJECTS: dict[str, list[dict[str, Any]]] = {
    "Pod": [
        thing("p-m-a", "a", "r1", status=READY),
        thing("p-m-b", "b", "r1", status=READY),
        thing("p-m-c", "c", "r1", status={}),
    ],
    "ReplicaSet": [thing("p-m-1", "r1", "d1")],
    "Deployment": [DEPLOYMENT],
    "HorizontalPodAutoscaler": [
        thing(
            "p-m",
            "h1",
            "p1",
            spec={"minReplicas": 1, "maxReplicas": 4},
            status={"desiredReplicas": 2, "lastScaleTime": "2026-05-04T10:00:00Z"},
        )
    ],
}
OBJECTS["Pod"][1]["metadata"]["deletionTimestamp"] = "2026-05-04T10:00:00Z"
PIPELINE = {
    "metadata": {"name": "p", "uid": "p1", "generation": 2},
    "status": {
        "observedGeneration": 2,
        "conditions": [{"type": "Ready", "status": "True"}],
        "allocation": [{"model": "m", "granted": 4, "floor": 1}],
    },
}


class Here:
    """A namespace whose API server may be away; its own cluster, too."""

    name = "here"

    def __init__(self) -> None:
        self.away, self.refused = False, 0

    @property
    def kube(self) -> Any:
        return self

    def items(self, kind: str, *_: str, **__: bool) -> list[dict[str, Any]]:
        if self.away:
            self.refused += 1
            raise ApiRefused(503, {})
        return [PIPELINE] if kind == "ModelPipeline" else OBJECTS.get(kind, [])

    def get(self, _kind: str, _name: str) -> dict[str, Any]:
        return PIPELINE


def test_a_sample_says_what_the_objects_say() -> None:
    here: Any = Here()
    with Sampler(here, "p") as sampler:
        eventually(lambda: sampler.samples and sampler.census, timeout_s=10)
    sample = sampler.samples[0]
    assert (sample.replicas, sample.pods, sample.ready) == ({"m": 2}, {"m": 3}, {"m": 1})
    assert sample.writers == {"m": ("kube-controller-manager",)}
    assert (sample.autoscalers["m"].desired, sample.autoscalers["m"].maximum) == (2, 4)
    assert (sample.granted, sample.says_ready) == ({"m": 4}, True)
    assert sampler.census[0].ownerless == frozenset()


def test_an_older_generation_is_not_called_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIPELINE, "metadata", {"name": "p", "uid": "p1", "generation": 3})
    here: Any = Here()
    with Sampler(here, "p") as sampler:
        eventually(lambda: sampler.samples, timeout_s=10)
    assert not sampler.samples[0].says_ready


def test_what_could_not_be_read_is_counted_unless_the_test_took_it_away() -> None:
    here: Any = Here()
    with Sampler(here, "p") as sampler:
        eventually(lambda: sampler.samples, timeout_s=10)
        with sampler.blind():
            here.away = True
            eventually(lambda: here.refused > 3, timeout_s=10)
            here.away = False
            eventually(lambda: sampler.samples[-1].blind, timeout_s=10)
        eventually(lambda: sampler.samples[-1].epoch == 2, timeout_s=10)
        assert not sampler.samples[-1].blind
        unmissed = sampler.missed
        here.away = True
        eventually(lambda: sampler.missed > unmissed, timeout_s=10)
    assert unmissed == 0


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        (set(), set()),
        ({"p1"}, {"Deployment p-m (d1)", "HorizontalPodAutoscaler p-m (h1)"}),
        ({"d1"}, {"ReplicaSet p-m-1 (r1)"}),
        ({"r1"}, {"Pod p-m-a (a)", "Pod p-m-b (b)", "Pod p-m-c (c)"}),
    ],
    ids=["all owners live", "the pipeline is gone", "the Deployment is gone",
         "the ReplicaSet is gone"],
)  # fmt: skip
def test_an_object_without_a_living_owner_is_named(missing: set[str], left: set[str]) -> None:
    found = {
        kind: [item for item in items if item["metadata"]["uid"] not in missing]
        for kind, items in OBJECTS.items()
    }
    assert ownerless(found, {"p1"} - missing) == left


def test_an_object_without_any_owner_is_an_orphan() -> None:
    assert ownerless({"Service": [thing("s", "s1", None)]}, {"p1"}) == {"Service s (s1)"}


def test_writers_are_those_of_the_field_itself() -> None:
    assert replica_writers(DEPLOYMENT) == ("kube-controller-manager",)


METRICS = """\
# HELP deepseek_operator_reconcile_total Runs of the reconciler
deepseek_operator_reconcile_total{result="ok"} 40.0
deepseek_operator_reconcile_total{result="retry"} 2.0
deepseek_operator_reconcile_created{result="ok"} 1.7e+09
deepseek_operator_queue_busy 1.0
deepseek_operator_child_requests_total{action="apply",kind="Service",result="ok"} 7.0
deepseek_operator_child_requests_total{action="delete",kind="Service",result="ok"} 5.0
"""


def test_the_operators_counters_are_read_by_name() -> None:
    assert Counters.of(METRICS) == Counters(runs=42, busy=1, applies=7)


@pytest.mark.parametrize(
    ("busy", "runs", "so"),
    [(0, 42, False), (0, 43, True), (1, 43, False), (1, 44, True)],
    ids=["nothing ran", "one ran", "only the one under way", "the one under way and another"],
)
def test_a_run_that_was_under_way_is_not_the_forced_one(busy: int, runs: int, so: bool) -> None:
    before = Counters(runs=42, busy=busy, applies=0)
    assert followed(before, Counters(runs=runs, busy=0, applies=0)) is so
