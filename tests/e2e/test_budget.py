"""Four pretended GPUs, two models: weights decide, freed ones move, nobody takes a fifth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import manifest
from tests.support.cluster import Space, Wire, deepseek, eventually
from tests.support.cluster_images import Bundle
from tests.support.cluster_sampler import Sampler

NAME = "shared"
GPUS = 4


def models(first: int = 4, second: int = 4) -> dict[str, dict[str, Any]]:
    cuda = {"device": "cuda"}
    return {
        "first": cuda | {"replicas": first},
        "second": cuda | {"type": "CV", "bundle": "other", "replicas": second},
    }


def scheduler(first: float, second: float) -> Wire:
    return {
        "policy": "priority-based",
        "budget": {"gpus": GPUS},
        "priorityRules": [
            {"modelType": "NLP", "weight": first},
            {"modelType": "CV", "weight": second},
        ],
    }


@pytest.fixture(scope="module")
def shared(space: Space, bundles: dict[str, Bundle]) -> Iterator[Callable[..., None]]:
    """Apply the pipeline with other numbers; it is the same one for all tests here."""

    def change(first: int, second: int, *, weights: tuple[float, float]) -> None:
        space.apply(manifest(NAME, models(first, second), bundles, scheduler=scheduler(*weights)))

    yield change
    space.delete("ModelPipeline", NAME)


@pytest.fixture(autouse=True)
def four_gpus(gpus: Callable[[int], None]) -> None:
    gpus(GPUS)


def settled(space: Space, first: int, second: int) -> bool:
    """Whether the two models have these replicas, all ready, and nothing else exists."""
    granted = {"first": first, "second": second}
    return (
        space.granted(NAME) == granted
        and space.ready(NAME)
        and {name: len(space.pods(NAME, name)) for name in granted} == granted
    )


def check(sampler: Sampler, figures: Callable[[str], None], *, what: str) -> None:
    """No sample holds more than the budget, in replicas or in pods that still exist."""
    assert len(sampler.samples) >= 10
    most_pods = max(sum(s.pods.values()) for s in sampler.samples)
    most_replicas = max(sum(s.replicas.values()) for s in sampler.samples)
    figures(
        f"budget {GPUS}, {what}: at most {most_pods} pods (ending ones too) and {most_replicas} "
        f"replicas in {len(sampler.samples)} samples, {sampler.missed} missed"
    )
    assert most_pods <= GPUS
    assert most_replicas <= GPUS


def reach_state(space: Space, change: Callable[[], None], *, first: int, second: int) -> Sampler:
    with Sampler(space, NAME) as sampler:
        change()
        eventually(
            lambda: settled(space, first, second),
            timeout_s=180,
            what=lambda: f"not {first} and {second}: {space.story(NAME)}",
        )
    return sampler


def test_weights_share_out_the_budget(
    shared: Callable[..., None], space: Space, figures: Callable[[str], None]
) -> None:
    sampler = reach_state(space, lambda: shared(4, 4, weights=(0.75, 0.25)), first=3, second=1)
    check(sampler, figures, what="0.75 / 0.25 from nothing")
    shown = json.loads(deepseek(space.kube, "explain", NAME, "-n", space.name, "-o", "json").stdout)
    rows = {row["model"]: row for row in shown["models"]}
    assert (rows["first"]["granted"], rows["second"]["granted"]) == (3, 1)
    # With the other one's floor of 1 no weight could give the first a fourth.
    assert (rows["first"]["limitedBy"], rows["second"]["limitedBy"]) == ("budget", "weight")
    assert all(row["explanation"] for row in rows.values())


def test_what_one_gives_up_the_other_gets(
    shared: Callable[..., None], space: Space, figures: Callable[[str], None]
) -> None:
    reach_state(space, lambda: shared(4, 4, weights=(0.75, 0.25)), first=3, second=1)
    sampler = reach_state(space, lambda: shared(1, 4, weights=(0.75, 0.25)), first=1, second=3)
    check(sampler, figures, what="the first shrinks its demand to 1")


def test_edited_weights_move_replicas(
    shared: Callable[..., None], space: Space, figures: Callable[[str], None]
) -> None:
    reach_state(space, lambda: shared(4, 4, weights=(0.75, 0.25)), first=3, second=1)
    kept = space.pod_uids(NAME)
    sampler = reach_state(space, lambda: shared(4, 4, weights=(0.25, 0.75)), first=1, second=3)
    check(sampler, figures, what="weights turned round")
    assert len(kept & space.pod_uids(NAME)) == 2, "replicas that could stay were replaced"


def test_floors_that_do_not_fit_are_told(
    space: Space, pipeline: Callable[..., Wire], shared: Callable[..., None]
) -> None:
    shared(0, 0, weights=(0.75, 0.25))
    floors = {"autoscaling": {"minReplicas": 3, "maxReplicas": 4}, "device": "cuda"}
    pipeline(
        "tight",
        {"first": floors, "second": floors | {"type": "CV", "bundle": "other"}},
        scheduler=scheduler(0.75, 0.25),
    )
    eventually(
        lambda: space.condition("tight", "BudgetSufficient").get("status") == "False",
        timeout_s=20,
        what=lambda: space.story("tight"),
    )
    assert space.condition("tight", "BudgetSufficient")["reason"] == "FloorsExceedBudget"
    assert sum(space.granted("tight").values()) == GPUS
