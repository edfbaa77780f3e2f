"""Replicas under a real autoscaler: it alone writes them, through load, outage and restarts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.forced_reconciles import Forced
from tests.e2e.operator_release import Release
from tests.support.cluster import Kube, Space, Wire, eventually
from tests.support.cluster_checks import (
    AUTOSCALER,
    HANDOVER,
    autoscaler_complaints,
    rate_complaints,
)
from tests.support.cluster_probe import Load, reach
from tests.support.cluster_sampler import Sampler

FAST = {"scaleDown": {"stabilizationWindowSeconds": 0}}
OUTAGE_S = float(os.environ.get("DEEPSEEK_E2E_OUTAGE_S", "180"))
METRICS_API = "v1beta1.metrics.k8s.io"
UP, STEADY, DOWN = 60, 80, 60
"""Reconciles that are forced in each phase; 200 in all."""


def replicas(space: Space, name: str) -> int:
    found = space.get("Deployment", name) or {}
    return int(found.get("spec", {}).get("replicas", 0))


@pytest.mark.timeout(900)
def test_load_scales_a_model_up_and_down_through_restarts_and_reconciles(
    space: Space, release: Release, pipeline: Callable[..., Wire], figures: Callable[[str], None]
) -> None:
    name, model, most = "elastic", "slow", 3
    scaling = {"minReplicas": 1, "maxReplicas": most, "behavior": FAST}
    pipeline(name, {model: {"bundle": "slow", "autoscaling": scaling}})
    space.wait_ready(name)
    deployment = f"{name}-{model}"

    def story() -> str:
        return str(space.get("HorizontalPodAutoscaler", deployment))

    forced = Forced(space, release, name, model)
    with Sampler(space, name) as sampler, reach(space, deployment) as target:
        started = time.monotonic()
        with Load(target, model, threads=2) as load:
            forced.until(lambda: replicas(space, deployment) > 1, at_least=UP, what=story)
            up = time.monotonic() - started
            forced.until(lambda: replicas(space, deployment) == most, at_least=STEADY // 2)
            release.restart()
            forced.until(lambda: replicas(space, deployment) == most, at_least=STEADY // 2)
        started = time.monotonic()
        forced.until(lambda: replicas(space, deployment) == 1, at_least=DOWN, what=story)
        down = time.monotonic() - started
    figures(
        f"autoscaling: 1 -> {max(sampler.changes(model))} {up:.0f} s after the load began, back "
        f"to 1 {down:.0f} s after it ended; {sampler.changes(model)} in {len(sampler.samples)} "
        f"samples; {forced.count} forced reconciles, {forced.repairs} of them repaired something; "
        f"{load.ok} answers, {len(load.failures)} failures"
    )
    assert forced.count >= UP + STEADY + DOWN
    assert forced.repairs >= forced.count // 5
    assert autoscaler_complaints(sampler.samples, model) == []
    assert {1, most} <= set(sampler.changes(model))
    assert rate_complaints(sampler) == []


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
def metrics(kube: Kube) -> Iterator[Callable[[bool], None]]:
    """Cut the metrics API off, or let it answer again; it does afterwards."""
    service = (kube.get("APIService", METRICS_API) or {})["spec"]["service"]

    def answer(so: bool) -> None:
        place = service if so else service | {"name": "nowhere"}
        kube.merge("APIService", METRICS_API, {"spec": {"service": place}})

    yield answer
    answer(True)
    eventually(lambda: kube.items("PodMetrics", "kube-system") is not None, timeout_s=60)


def wait_for_metrics(space: Space, name: str, status: str, *, timeout_s: float = 90) -> None:
    eventually(
        lambda: space.condition(name, "MetricsAvailable").get("status") == status,
        timeout_s=timeout_s,
        what=lambda: f"MetricsAvailable is not {status}: {space.story(name)}",
    )


@pytest.mark.timeout(OUTAGE_S + 700)
def test_nothing_shrinks_while_metrics_that_were_there_are_away(
    space: Space,
    pipeline: Callable[..., Wire],
    metrics: Callable[[bool], None],
    figures: Callable[[str], None],
) -> None:
    name, model, most = "blinded", "slow", 4
    scaling = {"minReplicas": 1, "maxReplicas": most, "behavior": FAST}
    pipeline(name, {model: {"bundle": "slow", "autoscaling": scaling}})
    space.wait_ready(name)
    deployment = f"{name}-{model}"
    with reach(space, deployment) as target, Load(target, model, threads=2):
        eventually(
            lambda: replicas(space, deployment) == most,
            timeout_s=240,
            what=lambda: str(space.get("HorizontalPodAutoscaler", deployment)),
        )
        # It was real metrics that brought it here.
        wait_for_metrics(space, name, "True")
        metrics(False)
        wait_for_metrics(space, name, "False")
    assert space.condition(name, "MetricsAvailable")["reason"] == "MetricMissing"
    # The load is over, so with metrics it would shrink, as it does in the end.
    until = time.monotonic() + OUTAGE_S
    with Sampler(space, name) as sampler:
        eventually(lambda: time.monotonic() >= until, timeout_s=OUTAGE_S + 30, every_s=1)
    assert space.condition(name, "MetricsAvailable")["status"] == "False"
    metrics(True)
    started = time.monotonic()
    wait_for_metrics(space, name, "True", timeout_s=120)
    back = time.monotonic() - started
    eventually(lambda: replicas(space, deployment) < most, timeout_s=180)
    shrunk = time.monotonic() - started - back
    figures(
        f"metrics lost for {OUTAGE_S:g} s at {most} replicas: spec.replicas "
        f"{sampler.changes(model)} in {len(sampler.samples)} samples; MetricsAvailable again "
        f"{back:.0f} s after they were back, fewer replicas {shrunk:.0f} s after that"
    )
    assert sampler.changes(model) == [most]
    assert rate_complaints(sampler) == []


def test_a_handover_without_metrics_keeps_the_replicas(
    space: Space, pipeline: Callable[..., Wire], metrics: Callable[[bool], None]
) -> None:
    name, budget = "blind", {"budget": {"replicas": 4}}
    pipeline(name, {"echo": {"replicas": 4}}, scheduler=budget)
    space.wait_ready(name)
    metrics(False)
    with Sampler(space, name) as sampler:
        scaling = {"minReplicas": 1, "maxReplicas": 4, "behavior": FAST}
        pipeline(name, {"echo": {"autoscaling": scaling}}, scheduler=budget)
        wait_for_metrics(space, name, "False")
        # Several looks of the autoscaler later it is the same.
        until = time.monotonic() + 20
        eventually(lambda: time.monotonic() >= until, timeout_s=40, every_s=1)
    assert space.condition(name, "MetricsAvailable")["reason"] == "MetricMissing"
    assert sampler.changes("echo") == [4]
    assert space.granted(name) == {"echo": 4}
