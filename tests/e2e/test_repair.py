"""Whatever happens to a child, it comes back as it was; without an operator nothing is orphaned."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import manifest
from tests.e2e.operator_release import Release
from tests.support import watch_cut
from tests.support.cluster import Space, Wire, eventually
from tests.support.cluster_images import Bundle
from tests.support.cluster_probe import percentile

NAME = "repaired"
OWNED = "deepseek.ai/pipeline=" + NAME
KINDS = (
    "ServiceAccount",
    "ConfigMap",
    "NetworkPolicy",
    "Service",
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
)
MODELS: dict[str, dict[str, Any]] = {
    "fixed": {"replicas": 2},
    "scaled": {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}},
}
GUARD_S = 30.0
"""Far above what a repair takes; the figures say how long it took."""
MUTATIONS: dict[str, Wire] = {
    "ServiceAccount": {"automountServiceAccountToken": True},
    "ConfigMap": {"data": {"worker.json": "{}"}},
    "NetworkPolicy": {"spec": {"policyTypes": ["Egress"]}},
    "Service": {"metadata": {"labels": {"app.kubernetes.io/part-of": "somebody"}}},
    # Nothing that starts pods: those would compete with the operator for the machine.
    "Deployment": {"spec": {"strategy": {"rollingUpdate": {"maxSurge": "50%"}}}},
    "HorizontalPodAutoscaler": {"spec": {"maxReplicas": 9}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": "90%"}},
}


@pytest.fixture(scope="module", autouse=True)
def repaired(space: Space, bundles: dict[str, Bundle]) -> Iterator[None]:
    space.apply(manifest(NAME, MODELS, bundles))
    space.wait_ready(NAME)
    yield
    space.delete("ModelPipeline", NAME)


def wanted(item: Wire) -> Wire:
    """What the operator says about a child, without what the server and controllers add."""
    copy = {
        key: value for key, value in item.items() if key not in {"apiVersion", "status", "metadata"}
    }
    spec = dict(copy.get("spec", {}))
    for assigned in ("clusterIP", "clusterIPs"):
        if spec.get(assigned) != "None":
            spec.pop(assigned, None)
    if item["kind"] == "Deployment":
        spec.pop("replicas", None)
    labels = item["metadata"]["labels"]
    owners = [owner["uid"] for owner in item["metadata"].get("ownerReferences", ())]
    return copy | {"spec": spec, "labels": labels, "owners": owners}


def children(space: Space, kind: str) -> list[Wire]:
    return [{"kind": kind} | item for item in space.items(kind, OWNED)]


def as_before(space: Space, item: Wire, *, but: str = "") -> bool:
    """Whether a child is again what it was, as an object of another uid than ``but``."""
    found = space.get(item["kind"], item["metadata"]["name"])
    if found is None or found["metadata"]["uid"] == but:
        return False
    return wanted({"kind": item["kind"]} | found) == wanted(item)


@pytest.mark.parametrize("kind", KINDS)
def test_a_deleted_child_comes_back(
    kind: str, space: Space, figures: Callable[[str], None]
) -> None:
    times = []
    before = children(space, kind)
    assert before, f"the pipeline has no {kind}"
    for item in before:
        name = item["metadata"]["name"]
        started = time.monotonic()
        space.delete(kind, name)

        eventually(
            functools.partial(as_before, space, item, but=item["metadata"]["uid"]),
            timeout_s=GUARD_S,
            what=f"{kind} {name} did not come back",
            every_s=0.02,
        )
        times.append(time.monotonic() - started)
    figures(f"deleted {kind}: restored in at most {max(times):.2f} s ({len(times)} objects)")
    space.wait_ready(NAME)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_child_is_put_right(
    kind: str, space: Space, figures: Callable[[str], None]
) -> None:
    times = []
    space.wait_ready(NAME)
    for _ in range(5):
        for item in children(space, kind):
            name = item["metadata"]["name"]
            started = time.monotonic()
            space.merge(kind, name, MUTATIONS[kind])
            eventually(
                functools.partial(as_before, space, item),
                timeout_s=GUARD_S,
                what=f"{kind} {name} stays changed",
                every_s=0.02,
            )
            times.append(time.monotonic() - started)
    figures(
        f"changed {kind}: put right p50 {percentile(times, 50):.2f} s, p99 "
        f"{percentile(times, 99):.2f} s ({len(times)} changes)"
    )


def test_what_was_deleted_while_the_watches_were_cut_comes_back(
    space: Space, release: Release, figures: Callable[[str], None]
) -> None:
    if not watch_cut.server_is_a_process():
        pytest.skip("the API server of kind has a network of its own [kind]")
    times = []
    for kind in KINDS:
        space.wait_ready(NAME)
        [item, *_] = children(space, kind)
        [pod] = release.pods()
        with watch_cut.cut_off(pod["status"]["podIP"]):
            space.delete(kind, item["metadata"]["name"])
        ended = time.monotonic()
        eventually(
            functools.partial(as_before, space, item, but=item["metadata"]["uid"]),
            timeout_s=GUARD_S,
            what=f"{kind} did not come back after its watch was cut",
            every_s=0.02,
        )
        times.append(time.monotonic() - ended)
    figures(f"deleted behind cut watches: restored in at most {max(times):.1f} s (<= 10)")


def test_a_changed_pod_template_is_put_right(space: Space, figures: Callable[[str], None]) -> None:
    space.wait_ready(NAME)
    [item, *_] = children(space, "Deployment")
    started = time.monotonic()
    other = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 3}}}}
    space.merge("Deployment", item["metadata"]["name"], other)
    eventually(functools.partial(as_before, space, item), timeout_s=GUARD_S, every_s=0.02)
    figures(f"changed pod template: put right in {time.monotonic() - started:.2f} s")
    space.wait_ready(NAME)


def test_a_users_own_labels_and_annotations_stay(space: Space) -> None:
    own = {"metadata": {"annotations": {"example.com/note": "mine"}}}
    space.merge("Deployment", f"{NAME}-fixed", own)
    space.merge("Deployment", f"{NAME}-fixed", {"spec": {"minReadySeconds": 0}})
    space.merge("ModelPipeline", NAME, {"metadata": {"annotations": {"example.com/touch": "1"}}})
    eventually(lambda: space.ready(NAME))
    found = space.get("Deployment", f"{NAME}-fixed")
    assert found is not None
    assert found["metadata"]["annotations"]["example.com/note"] == "mine"


def test_a_users_object_of_the_same_name_is_left_alone(
    space: Space, pipeline: Callable[..., Wire]
) -> None:
    users: Wire = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "taken-echo"},
        "data": {"owner": "somebody"},
    }
    space.apply(users, manager="somebody")
    pipeline("taken", {"echo": {}})
    eventually(
        lambda: space.condition("taken", "NameConflict").get("reason") == "ForeignObject",
        timeout_s=20,
        what=lambda: space.story("taken"),
    )
    found = space.get("ConfigMap", "taken-echo")
    assert found is not None
    assert found["data"] == {"owner": "somebody"}
    assert not found["metadata"].get("ownerReferences")
    assert not space.ready("taken")
    space.delete("ConfigMap", "taken-echo")
    space.wait_ready("taken")
    assert space.condition("taken", "NameConflict")["status"] == "False"


def test_a_pipeline_deleted_without_an_operator_leaves_nothing(
    space: Space,
    release: Release,
    pipeline: Callable[..., Wire],
    figures: Callable[[str], None],
) -> None:
    pipeline("orphaned", MODELS)
    space.wait_ready("orphaned")
    selector = "deepseek.ai/pipeline=orphaned"
    release.scale(0)
    try:
        started = time.monotonic()
        space.delete("ModelPipeline", "orphaned")
        eventually(
            lambda: not any(space.items(kind, selector) for kind in KINDS),
            timeout_s=10,
            what=lambda: str([len(space.items(kind, selector)) for kind in KINDS]),
        )
        objects = time.monotonic() - started
        eventually(lambda: not space.pods("orphaned"), timeout_s=20, what="pods stay")
        pods = time.monotonic() - started
    finally:
        release.scale(1)
    figures(f"deleted without an operator: objects {objects:.1f} s, pods {pods:.1f} s")
