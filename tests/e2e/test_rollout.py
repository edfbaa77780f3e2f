"""New replicas when a person asks for them, and none because the operator changes or goes."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.e2e.operator_release import Release
from tests.support.cluster import Space, Wire, deepseek, eventually
from tests.support.cluster_probe import Load, answers, reach
from tests.support.cluster_sampler import Sampler


def rollout(space: Space, name: str, *arguments: str) -> float:
    """``deepseek rollout --wait``; gives the seconds that it took."""
    started = time.monotonic()
    deepseek(
        space.kube,
        *("rollout", name, "-n", space.name, "--wait", "--timeout", "180", *arguments),
    )
    return time.monotonic() - started


def gpu_budget(count: int) -> Wire:
    return {"policy": "priority-based", "budget": {"gpus": count}}


def test_a_rollout_without_a_spare_gpu_completes(
    space: Space,
    pipeline: Callable[..., Wire],
    gpus: Callable[[int], None],
    figures: Callable[[str], None],
) -> None:
    gpus(2)
    pipeline("full", {"echo": {"device": "cuda", "replicas": 2}}, scheduler=gpu_budget(2))
    space.wait_ready("full")
    old = space.pod_uids("full")
    with Sampler(space, "full") as sampler:
        seconds = rollout(space, "full")
        space.wait_ready("full")
    most = max(s.pods.get("echo", 0) for s in sampler.samples)
    least = min(s.ready.get("echo", 0) for s in sampler.samples)
    figures(f"rollout without a spare GPU: {seconds:.1f} s, {least} to {most} pods")
    assert not old & space.pod_uids("full")
    assert len(space.pod_uids("full")) == 2
    assert least >= 1


def test_a_rollout_with_a_spare_gpu_fails_no_request(
    space: Space,
    pipeline: Callable[..., Wire],
    gpus: Callable[[int], None],
    figures: Callable[[str], None],
) -> None:
    gpus(2)
    pipeline("roomy", {"echo": {"device": "cuda"}}, scheduler=gpu_budget(2))
    space.wait_ready("roomy")
    old = space.pod_uids("roomy")
    with reach(space, "roomy-echo") as target:
        eventually(lambda: answers(target, "echo"), timeout_s=20)
        with (
            Sampler(space, "roomy") as sampler,
            Load(target, "echo", threads=1) as each,
            Load(target, "echo", threads=1, kept=True) as kept,
        ):
            seconds = rollout(space, "roomy")
            eventually(lambda: len(space.pods("roomy")) == 1, timeout_s=40)
    least = min(sample.ready.get("echo", 0) for sample in sampler.samples)
    figures(
        f"rollout with a spare GPU: {seconds:.1f} s, at least {least} ready; answered "
        f"{each.ok} requests over connections of their own ({len(each.failures)} failed) and "
        f"{kept.ok} over a kept one ({len(kept.failures)} failed)"
    )
    assert least >= 1
    assert each.failures + kept.failures == []
    assert each.ok > 20
    assert kept.ok > 20
    assert not old & space.pod_uids("roomy")


def test_one_model_can_be_replaced_alone(space: Space, pipeline: Callable[..., Wire]) -> None:
    pipeline("pair", {"echo": {}, "other": {"bundle": "other"}})
    space.wait_ready("pair")
    old, kept = space.pod_uids("pair", "echo"), space.pod_uids("pair", "other")
    rollout(space, "pair", "--model", "echo")
    assert not old & space.pod_uids("pair", "echo")
    assert space.pod_uids("pair", "other") == kept
    shown = deepseek(space.kube, "explain", "pair", "-n", space.name).stdout
    assert "echo" in shown
    assert "other" in shown


def test_types_weights_and_replicas_restart_nothing(
    space: Space, pipeline: Callable[..., Wire]
) -> None:
    rules = [{"modelType": "NLP", "weight": 0.5}]
    pipeline("edited", {"echo": {"replicas": 2}})
    space.wait_ready("edited")
    kept = space.pod_uids("edited")
    pipeline(
        "edited",
        {"echo": {"replicas": 2, "type": "CV"}},
        scheduler={"priorityRules": [*rules, {"modelType": "CV", "weight": 0.2}]},
    )
    eventually(lambda: space.ready("edited"), what=lambda: space.story("edited"))
    assert space.pod_uids("edited") == kept
    pipeline("edited", {"echo": {"replicas": 3, "type": "CV"}})
    space.wait_ready("edited")
    assert kept < space.pod_uids("edited")


def weighed(weight: float) -> Wire:
    return {"priorityRules": [{"modelType": "NLP", "weight": weight}]}


def test_upgrade_uninstall_and_reinstall_touch_no_worker(
    space: Space,
    release: Release,
    pipeline: Callable[..., Wire],
    figures: Callable[[str], None],
) -> None:
    def acts(weight: float) -> None:
        """Wait until the operator that runs now has taken a change of the pipeline in."""
        pipeline("steady", {"echo": {"replicas": 2}}, scheduler=weighed(weight))
        eventually(lambda: space.ready("steady"), what=lambda: space.story("steady"))

    acts(0.1)
    kept = space.pod_uids("steady")
    other = Release(release.kube, catalog=release.catalog, name="second")
    try:
        started = time.monotonic()
        release.install(
            drain={"preStopS": 1, "drainS": 4, "graceS": 9},
            images={"cpu": "deepseek/worker-newer", "cuda": "deepseek/worker-newer"},
            logLevel="debug",
        )
        upgraded = time.monotonic() - started
        acts(0.2)
        assert space.pod_uids("steady") == kept

        release.uninstall()
        assert space.kube.get("CustomResourceDefinition", "modelpipelines.deepseek.ai")
        assert space.get("ModelPipeline", "steady")
        assert space.pod_uids("steady") == kept
        with reach(space, "steady-echo") as target:
            assert answers(target, "echo")

        started = time.monotonic()
        release.install()
        figures(f"helm upgrade {upgraded:.1f} s, reinstall {time.monotonic() - started:.1f} s")
        acts(0.3)
        assert space.pod_uids("steady") == kept

        release.uninstall()
        other.install(take_ownership=True)
        acts(0.4)
        assert space.pod_uids("steady") == kept
    finally:
        other.uninstall()
        release.install(take_ownership=True)
    acts(0.5)
    assert space.pod_uids("steady") == kept
    assert not any("deletionTimestamp" in pod["metadata"] for pod in space.pods("steady"))
