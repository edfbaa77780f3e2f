"""Replicas under a real autoscaler: it alone writes them, through load, outage and restarts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from tests.e2e.operator_release import Release
from tests.support.cluster import Kube, Space, Wire, eventually
from tests.support.cluster_probe import Load, Sampler, reach

HANDOVER = "deepseek-operator-handover"
AUTOSCALER = "kube-controller-manager"
FAST = {"scaleDown": {"stabilizationWindowSeconds": 0}}
OUTAGE_S = float(os.environ.get("DEEPSEEK_E2E_OUTAGE_S", "180"))
METRICS_API = "v1beta1.metrics.k8s.io"


def replicas(space: Space, name: str) -> int:
    found = space.get("Deployment", name) or {}
    return int(found.get("spec", {}).get("replicas", 0))


def check_writers(sampler: Sampler, model: str) -> None:
    """Nobody but the autoscaler moves replicas, and our managers never hold them afterwards."""
    seen = [s for s in sampler.samples if model in s.replicas]
    for before, after in pairwise(seen):
        if before.replicas[model] != after.replicas[model]:
            # The server does not always note the autoscaler's first write of a field nobody owns.
            assert set(after.writers[model]) <= {AUTOSCALER}, after
    scaled = False
    for sample in seen:
        writers = set(sample.writers[model])
        scaled = scaled or AUTOSCALER in writers
        assert not any(w.startswith("deepseek-operator") for w in writers - {HANDOVER}), sample
        assert not (scaled and HANDOVER in writers), sample


@pytest.mark.timeout(600)
def test_load_scales_a_model_up_and_down_through_restarts_and_reconciles(
    space: Space, release: Release, pipeline: Callable[..., Wire], figures: Callable[[str], None]
) -> None:
    name, model = "elastic", "slow"
    scaling = {"minReplicas": 1, "maxReplicas": 3, "behavior": FAST}
    pipeline(name, {model: {"bundle": "slow", "autoscaling": scaling}})
    space.wait_ready(name)
    deployment = f"{name}-{model}"
    with Sampler(space, name) as sampler, reach(space, deployment) as target:
        started = time.monotonic()
        with Load(target, model, threads=2) as load:
            eventually(
                lambda: replicas(space, deployment) > 1,
                timeout_s=180,
                what=lambda: str(space.get("HorizontalPodAutoscaler", deployment)),
            )
            up = time.monotonic() - started
            for turn in range(200):
                note = {"metadata": {"annotations": {"example.com/turn": str(turn)}}}
                space.merge("ModelPipeline", name, note)
                if turn == 100:
                    release.restart()
        started = time.monotonic()
        eventually(
            lambda: replicas(space, deployment) == 1,
            timeout_s=180,
            what=lambda: str(space.get("HorizontalPodAutoscaler", deployment)),
        )
        down = time.monotonic() - started
    figures(
        f"autoscaling: 1 -> {max(sampler.changes(model))} {up:.0f} s after the load began, back "
        f"to 1 {down:.0f} s after it ended; {sampler.changes(model)} in {len(sampler.samples)} "
        f"samples; {load.ok} answers, {len(load.failures)} failures"
    )
    check_writers(sampler, model)


def test_handing_over_to_an_autoscaler_loses_no_replica(
    space: Space, pipeline: Callable[..., Wire], figures: Callable[[str], None]
) -> None:
    name = "handed"
    pipeline(name, {"echo": {"replicas": 3}})
    space.wait_ready(name)
    uids = space.pod_uids(name)
    with Sampler(space, name) as sampler:
        pipeline(name, {"echo": {"autoscaling": {"minReplicas": 3, "maxReplicas": 4}}})
        eventually(lambda: space.get("HorizontalPodAutoscaler", f"{name}-echo"), timeout_s=20)
        eventually(
            lambda: (
                (space.get("HorizontalPodAutoscaler", f"{name}-echo") or {})
                .get("status", {})
                .get("desiredReplicas")
            ),
            timeout_s=60,
        )
        space.wait_ready(name)
    figures(
        f"handover at 3 replicas: spec.replicas {sampler.changes('echo')}, ready at least "
        f"{min(s.ready.get('echo', 0) for s in sampler.samples)}"
    )
    assert sampler.changes("echo") == [3]
    assert min(s.ready["echo"] for s in sampler.samples) == 3
    assert space.pod_uids(name) == uids
    last = sampler.samples[-1].writers["echo"]
    assert set(last) <= {HANDOVER, AUTOSCALER}


def test_somebody_elses_autoscaler_is_told_and_left_alone(
    space: Space, pipeline: Callable[..., Wire]
) -> None:
    name = "contested"
    pipeline(name, {"echo": {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}}})
    space.wait_ready(name)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-echo"}
    foreign = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "somebodys"},
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 2},
    }
    space.apply(foreign, manager="somebody")
    eventually(
        lambda: space.condition(name, "ScalingConflict").get("status") == "True",
        timeout_s=20,
        what=lambda: space.story(name),
    )
    assert space.condition(name, "ScalingConflict")["reason"] == "ForeignAutoscaler"
    assert "somebodys" in space.condition(name, "ScalingConflict")["message"]
    eventually(lambda: space.get("HorizontalPodAutoscaler", f"{name}-echo") is None, timeout_s=10)
    found = space.get("HorizontalPodAutoscaler", "somebodys")
    assert found is not None
    assert found["spec"]["maxReplicas"] == 2

    space.delete("HorizontalPodAutoscaler", "somebodys")
    eventually(
        lambda: space.condition(name, "ScalingConflict").get("status") == "False", timeout_s=40
    )
    eventually(lambda: space.get("HorizontalPodAutoscaler", f"{name}-echo"), timeout_s=10)


@pytest.fixture
def no_metrics(kube: Kube) -> Iterator[Callable[[], None]]:
    """Cut the metrics API off; it answers again afterwards."""
    service = (kube.get("APIService", METRICS_API) or {})["spec"]["service"]

    def cut() -> None:
        nowhere = service | {"name": "nowhere"}
        kube.merge("APIService", METRICS_API, {"spec": {"service": nowhere}})

    yield cut
    kube.merge("APIService", METRICS_API, {"spec": {"service": service}})
    eventually(lambda: kube.items("PodMetrics", "kube-system") is not None, timeout_s=60)


@pytest.mark.timeout(OUTAGE_S + 300)
def test_nothing_shrinks_while_metrics_are_away(
    space: Space,
    pipeline: Callable[..., Wire],
    no_metrics: Callable[[], None],
    figures: Callable[[str], None],
) -> None:
    name, budget = "blind", {"budget": {"replicas": 4}}
    pipeline(name, {"echo": {"replicas": 4}}, scheduler=budget)
    space.wait_ready(name)
    no_metrics()
    scaling = {"minReplicas": 1, "maxReplicas": 4, "behavior": FAST}
    pipeline(name, {"echo": {"autoscaling": scaling}}, scheduler=budget)
    eventually(
        lambda: space.condition(name, "MetricsAvailable").get("status") == "False",
        timeout_s=90,
        what=lambda: space.story(name),
    )
    assert space.condition(name, "MetricsAvailable")["reason"] == "MetricMissing"
    until = time.monotonic() + OUTAGE_S
    with Sampler(space, name) as sampler:
        eventually(lambda: time.monotonic() >= until, timeout_s=OUTAGE_S + 30, every_s=1)
    figures(
        f"no metrics for {OUTAGE_S:g} s: spec.replicas {sampler.changes('echo')} in "
        f"{len(sampler.samples)} samples"
    )
    assert sampler.changes("echo") == [4]
    assert space.granted(name) == {"echo": 4}
