"""Random kills under a sampler: one writer, the budget, a truthful Ready, and no orphans.

``DEEPSEEK_CHAOS_KILLS=30`` makes it long; ``DEEPSEEK_CHAOS_SEED`` repeats one course, and
``DEEPSEEK_CHAOS_REPORT`` names the JSON file that a run by hand writes.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deepseek_api.errors import DeepseekError

from deploy.cluster import control
from tests.e2e.conftest import manifest
from tests.e2e.operator_release import NAMESPACE, Release
from tests.e2e.test_repair import KINDS
from tests.support.cluster import Space, eventually
from tests.support.cluster_images import Bundle
from tests.support.cluster_probe import Sample, Sampler

NAME = "shaken"
BUDGET = 3
KILLS = int(os.environ.get("DEEPSEEK_CHAOS_KILLS", "5"))
SEED = int(os.environ.get("DEEPSEEK_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
Kill = Callable[[Space, Release, random.Random], None]
LIE_S = 10.0
"""A pod that died is seen by the kubelet, the Deployment and the operator within this time."""


@pytest.fixture
def shaken(space: Space, bundles: dict[str, Bundle]) -> Iterator[None]:
    rules = [{"modelType": "NLP", "weight": 0.7}, {"modelType": "CV", "weight": 0.3}]
    models: dict[str, dict[str, Any]] = {
        "first": {"replicas": 2},
        "second": {"type": "CV", "bundle": "other", "replicas": 2},
    }
    scheduler = {"budget": {"replicas": BUDGET}, "priorityRules": rules}
    space.apply(manifest(NAME, models, bundles, scheduler=scheduler))
    space.wait_ready(NAME)
    yield
    space.delete("ModelPipeline", NAME)


def kill_operator(space: Space, release: Release, _chance: random.Random) -> None:
    for pod in release.pods():
        space.kube.delete("Pod", pod["metadata"]["name"], NAMESPACE, grace_s=0)


def kill_worker(space: Space, _release: Release, chance: random.Random) -> None:
    pod = chance.choice(space.pods(NAME))
    grace = chance.choice((0, None))
    space.kube.delete("Pod", pod["metadata"]["name"], space.name, grace_s=grace)


def kill_deployment(space: Space, _release: Release, chance: random.Random) -> None:
    space.delete("Deployment", f"{NAME}-{chance.choice(('first', 'second'))}")


def kill_api_server(space: Space, _release: Release, _chance: random.Random) -> None:
    control.kill("kube-apiserver")
    eventually(lambda: space.kube.request("GET", "/readyz") is not None, timeout_s=60)


def kinds_of_kills() -> dict[str, Kill]:
    kills: dict[str, Kill] = {
        "operator": kill_operator,
        "worker": kill_worker,
        "deployment": kill_deployment,
    }
    try:
        control.component_names()
    except DeepseekError:
        return kills
    # Every watch is cut with it.
    return kills | {"api-server": kill_api_server}


def lies(samples: list[Sample], ready_at: list[tuple[float, bool]]) -> float:
    """Longest time for which Ready was True while a granted replica was not ready, seconds."""
    longest = since = 0.0
    for at, said in ready_at:
        near = min(samples, key=lambda sample: abs(sample.at - at))
        wrong = said and sum(near.ready.values()) < sum(near.replicas.values())
        since = (since or at) if wrong else 0.0
        longest = max(longest, at - since if since else 0.0)
    return longest


@pytest.mark.timeout(120 + 90 * KILLS)
@pytest.mark.usefixtures("shaken")
def test_random_kills_break_no_promise(
    space: Space, release: Release, figures: Callable[[str], None]
) -> None:
    chance, kills = random.Random(SEED), kinds_of_kills()
    course: list[dict[str, Any]] = []
    ready_at: list[tuple[float, bool]] = []

    def whole() -> bool:
        said = space.ready(NAME)
        ready_at.append((time.monotonic(), said))
        pods = space.pods(NAME)
        return said and len(pods) == BUDGET and not any(map(_ends, pods))

    # Each kind comes once before chance has its way.
    chosen = chance.sample(sorted(kills), k=min(len(kills), KILLS))
    chosen += chance.choices(sorted(kills), k=KILLS - len(chosen))
    with Sampler(space, NAME) as sampler:
        for kind in chosen:
            started = time.monotonic()
            kills[kind](space, release, chance)
            release.wait()
            eventually(whole, timeout_s=90, what=lambda: space.story(NAME))
            course.append({"kill": kind, "seconds": round(time.monotonic() - started, 2)})
    report: dict[str, Any] = {
        "seed": SEED,
        "kills": course,
        "samples": len(sampler.samples),
        "missedSamples": sampler.missed,
        "mostReplicas": max(sum(s.replicas.values()) for s in sampler.samples),
        "longestUntrueReadyS": round(lies(sampler.samples, ready_at), 2),
        "writers": sorted({w for s in sampler.samples for ws in s.writers.values() for w in ws}),
    }
    figures(f"chaos: {json.dumps(report)}")
    if path := os.environ.get("DEEPSEEK_CHAOS_REPORT"):
        Path(path).write_text(json.dumps(report, indent=1) + "\n")
    assert report["mostReplicas"] <= BUDGET
    assert report["longestUntrueReadyS"] <= LIE_S
    assert report["writers"] == ["deepseek-operator"]
    assert space.granted(NAME) == {"first": 2, "second": 1}

    space.delete("ModelPipeline", NAME)
    selector = f"deepseek.ai/pipeline={NAME}"
    eventually(
        lambda: not any(space.items(kind, selector) for kind in (*KINDS, "Pod", "ReplicaSet")),
        timeout_s=40,
        what="something of the pipeline is left",
    )


def _ends(pod: dict[str, Any]) -> bool:
    return "deletionTimestamp" in pod["metadata"]
