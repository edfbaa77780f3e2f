"""Random kills under a sampler: one writer, the budget, a truthful Ready, and no orphans.

Five kills in ``make e2e``. ``make e2e-chaos`` makes it 30 and keeps the figures: it sets
``DEEPSEEK_CHAOS_KILLS`` and ``DEEPSEEK_CHAOS_RESULTS``. ``DEEPSEEK_CHAOS_SEED`` repeats a course;
the seed is the first thing that is printed. The rules are in `cluster_checks`.
"""

from __future__ import annotations

import functools
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos_records import BENCH, Course, Turn, chaos_records
from benchmarks.machine import Stamp
from benchmarks.record import write_results
from deploy.cluster import control
from deploy.cluster.versions import TOOLS
from tests.e2e.conftest import manifest
from tests.e2e.operator_release import NAMESPACE, Release
from tests.e2e.test_repair import KINDS
from tests.support import cluster_checks, watch_cut
from tests.support.cluster import Space, eventually
from tests.support.cluster_images import Bundle
from tests.support.cluster_sampler import Sampler

NAME = "shaken"
BUDGET = 5
MODELS = ("elastic", "first", "second")
GRANTS = {
    1: {"elastic": 1, "first": 2, "second": 2},
    2: {"elastic": 2, "first": 2, "second": 1},
}
"""What the weights give by the autoscaler's floor: an edited floor moves a replica."""
KILLS = int(os.environ.get("DEEPSEEK_CHAOS_KILLS", "5"))
SEED = int(os.environ.get("DEEPSEEK_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
RESULTS = os.environ.get("DEEPSEEK_CHAOS_RESULTS")


@dataclass(frozen=True, slots=True)
class Scene:
    """What a kill may need."""

    space: Space
    release: Release
    sampler: Sampler
    chance: random.Random


Kill = Callable[[Scene], float | None]
"""Does it; gives the time from which the recovery counts when that is not its beginning."""


@pytest.fixture
def shape(space: Space, bundles: dict[str, Bundle]) -> Iterator[Callable[[int], None]]:
    """Apply the pipeline with this floor of its autoscaler."""
    rules = [{"modelType": "NLP", "weight": 0.7}, {"modelType": "CV", "weight": 0.3}]
    scheduler = {"budget": {"replicas": BUDGET}, "priorityRules": rules}

    def apply(floor: int) -> None:
        scaling = {
            "minReplicas": floor,
            "maxReplicas": 2,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        }
        models: dict[str, dict[str, Any]] = {
            "elastic": {"autoscaling": scaling},
            "first": {"replicas": 2},
            "second": {"type": "CV", "bundle": "other", "replicas": 2},
        }
        space.apply(manifest(NAME, models, bundles, scheduler=scheduler))

    yield apply
    space.delete("ModelPipeline", NAME)


def kill_operator(scene: Scene) -> None:
    for pod in scene.release.pods():
        scene.space.kube.delete("Pod", pod["metadata"]["name"], NAMESPACE, grace_s=0)


def kill_worker(scene: Scene) -> None:
    pod = scene.chance.choice(scene.space.pods(NAME))
    grace = scene.chance.choice((0, None))
    scene.sampler.killed.add(pod["metadata"]["uid"])
    scene.space.kube.delete("Pod", pod["metadata"]["name"], scene.space.name, grace_s=grace)


def kill_deployment(scene: Scene) -> None:
    model = scene.chance.choice(MODELS)
    selector = f"deepseek.ai/pipeline={NAME},deepseek.ai/model={model}"
    sets = {item["metadata"]["uid"] for item in scene.space.items("ReplicaSet", selector)}
    pods = scene.space.pods(NAME, model)
    scene.space.delete("Deployment", f"{NAME}-{model}")
    # Replicas may just have been moving: also what its ReplicaSets started until then.
    pods += [p for p in scene.space.pods(NAME, model) if _owner(p) in sets]
    scene.sampler.killed |= {pod["metadata"]["uid"] for pod in pods}


def _owner(pod: dict[str, Any]) -> str:
    return str(pod["metadata"].get("ownerReferences", [{"uid": ""}])[0]["uid"])


def kill_api_server(scene: Scene) -> float:
    with scene.sampler.blind():
        control.kill("kube-apiserver")
        eventually(lambda: scene.space.kube.request("GET", "/readyz") is not None, timeout_s=60)
    return time.monotonic()


def cut_watches(scene: Scene) -> float:
    """The operator loses its connections, and a Deployment goes while it finds no new ones."""
    [pod] = scene.release.pods()
    with scene.sampler.blind(), watch_cut.cut_off(pod["status"]["podIP"]) as closed:
        # One for each watched kind, but for those that it was just opening again.
        assert closed >= 2
        kill_deployment(scene)
        pass_time(scene.chance.uniform(1, 12))
    assert watch_cut.remains() == []
    return time.monotonic()


ALL_KINDS: dict[str, Kill] = {
    "operator": kill_operator,
    "worker pod": kill_worker,
    "Deployment": kill_deployment,
    "API server": kill_api_server,
    "watches cut": cut_watches,
}
OF_THE_MACHINE = {"API server", "watches cut"}
"""What needs the API server as a process on this machine."""


def kinds_of_kills() -> dict[str, Kill]:
    """What can be done to the cluster at hand."""
    if watch_cut.server_is_a_process():
        return ALL_KINDS
    return {kind: kill for kind, kill in ALL_KINDS.items() if kind not in OF_THE_MACHINE}


def pass_time(seconds: float) -> None:
    until = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= until, timeout_s=seconds + 5)


def settled(space: Space, granted: dict[str, int]) -> bool:
    """Whether these replicas are granted, all are ready, and nothing else exists."""
    pods = space.pods(NAME)
    return (
        space.granted(NAME) == granted
        and space.ready(NAME)
        and len(pods) == sum(granted.values())
        and not any("deletionTimestamp" in pod["metadata"] for pod in pods)
    )


@pytest.mark.timeout(300 + 150 * KILLS)
def test_random_kills_break_no_promise(
    space: Space,
    release: Release,
    shape: Callable[[int], None],
    figures: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    chance, kills = random.Random(SEED), kinds_of_kills()
    first = f"chaos: seed {SEED}, {KILLS} kills of {', '.join(sorted(kills))}"
    if len(kills) < len(ALL_KINDS):
        first += "; the API server of kind is in a container that the other ways do not reach"
    # A run that hangs or is ended must have said which one it was.
    with capsys.disabled():
        sys.stdout.write(f"\n{first}\n")
        sys.stdout.flush()
    figures(first)
    # Each kind comes once before chance has its way.
    chosen = chance.sample(sorted(kills), k=min(len(kills), KILLS))
    chosen += chance.choices(sorted(kills), k=KILLS - len(chosen))
    shape(1)
    eventually(lambda: settled(space, GRANTS[1]), timeout_s=120, what=lambda: space.story(NAME))
    turns = []
    with Sampler(space, NAME, operators=release.space) as sampler:
        scene = Scene(space, release, sampler, chance)
        for number, kind in enumerate(chosen):
            started = time.monotonic()
            floor = 2 - number % 2
            # Not waited for: the kill comes while replicas move, or before.
            shape(floor)
            pass_time(chance.uniform(0, 6))
            counts_from = time.monotonic()
            counts_from = kills[kind](scene) or counts_from
            release.wait()
            eventually(
                functools.partial(settled, space, GRANTS[floor]),
                timeout_s=120,
                what=functools.partial(space.story, NAME),
            )
            now = time.monotonic()
            turns.append(Turn(kind, recovery_s=now - counts_from, whole_s=now - started))
    course = course_of(sampler, turns)
    figures(f"chaos: {course}")
    if RESULTS:
        stamp = Stamp.take(
            BENCH,
            ("kopf", "kubernetes"),
            settings={"Kubernetes": TOOLS["kubernetes"].version, "seed": str(SEED)},
        )
        write_results(BENCH, chaos_records(stamp, course), folder=Path(RESULTS))
    assert complaints(sampler) == []
    assert course.longest_lie_s <= cluster_checks.LIE_S
    assert course.longest_orphan_s <= cluster_checks.ORPHAN_S, course.longest_orphan
    assert cluster_checks.rate_complaints(sampler) == []

    space.delete("ModelPipeline", NAME)
    selector = f"deepseek.ai/pipeline={NAME}"
    eventually(
        lambda: not any(space.items(kind, selector) for kind in (*KINDS, "Pod", "ReplicaSet")),
        timeout_s=40,
        what="something of the pipeline is left",
    )


def course_of(sampler: Sampler, turns: list[Turn]) -> Course:
    """What the run showed."""
    orphan_s, orphan = cluster_checks.longest_orphan(sampler.census)
    return Course(
        turns=tuple(turns),
        samples=len(sampler.samples),
        missed=sampler.missed,
        median_gap_s=cluster_checks.median_gap(sampler),
        budget=BUDGET,
        most_possible=max(map(cluster_checks.most_possible, sampler.samples)),
        longest_lie_s=cluster_checks.longest_lie(sampler.samples),
        longest_orphan_s=orphan_s,
        longest_orphan=orphan,
        autoscaler_changes=len(sampler.changes("elastic")) - 1,
    )


def complaints(sampler: Sampler) -> list[str]:
    """What single moments broke."""
    samples = sampler.samples
    return [
        *cluster_checks.budget_complaints(samples, BUDGET, killed=sampler.killed),
        *cluster_checks.fixed_writer_complaints(samples, "first"),
        *cluster_checks.fixed_writer_complaints(samples, "second"),
        *cluster_checks.autoscaler_complaints(samples, "elastic"),
    ]
