"""A course that really happened passes every check, and each falsified copy of it fails one.

``tests/data/e2e/moved_replicas.json`` was recorded by `Sampler` on a real API server with real
controllers: the floor of an autoscaled model goes up, its Deployment is deleted, the floor goes
down and up again, and a pod is killed. Moments that say the same as the one before are left out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import cluster_checks as checks
from tests.support.cluster_sampler import Autoscaler, PodSeen, Sample

FILE = Path(__file__).resolve().parents[2] / "data" / "e2e" / "moved_replicas.json"
RECORDED = json.loads(FILE.read_text())
KILLED = frozenset(RECORDED["killed"])
Change = Callable[[Sample], Sample]


def sample(raw: dict[str, Any]) -> Sample:
    fields = raw | {
        "seen": tuple(PodSeen(**pod) for pod in raw["seen"]),
        "autoscalers": {
            model: Autoscaler(**scaler) for model, scaler in raw["autoscalers"].items()
        },
        "writers": {model: tuple(names) for model, names in raw["writers"].items()},
    }
    return Sample(**fields)


COURSE = [sample(raw) for raw in RECORDED["samples"]]


def complaints(samples: list[Sample]) -> set[str]:
    """Names of the checks that complain."""
    found = {
        "budget": checks.budget_complaints(samples, 5, killed=KILLED),
        "fixed": [
            *checks.fixed_writer_complaints(samples, "first"),
            *checks.fixed_writer_complaints(samples, "second"),
        ],
        "autoscaled": checks.autoscaler_complaints(samples, "elastic"),
    }
    return {name for name, sentences in found.items() if sentences}


def test_what_really_happened_breaks_no_rule() -> None:
    assert complaints(COURSE) == set()
    assert checks.longest_lie(COURSE) < checks.LIE_S


def test_the_course_shows_both_writers_at_work() -> None:
    writers = {writer for one in COURSE for names in one.writers.values() for writer in names}
    assert writers == {checks.MANAGER, checks.HANDOVER, checks.AUTOSCALER}
    assert {one.replicas.get("elastic") for one in COURSE} == {None, 1, 2}
    assert {one.replicas["second"] for one in COURSE} == {1, 2}


def undecided(one: Sample) -> Sample:
    scalers = {
        model: dataclasses.replace(scaler, last_scale="")
        for model, scaler in one.autoscalers.items()
    }
    return dataclasses.replace(one, autoscalers=scalers)


def written_by(manager: str, model: str) -> Change:
    return lambda one: dataclasses.replace(one, writers=one.writers | {model: (manager,)})


def doubled(one: Sample) -> Sample:
    others = tuple(dataclasses.replace(pod, uid=f"{pod.uid}-2") for pod in one.seen)
    return dataclasses.replace(one, seen=one.seen + others)


def raised(one: Sample) -> Sample:
    return dataclasses.replace(one, replicas=one.replicas | {"first": 3})


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (undecided, "autoscaled"),
        (written_by(checks.MANAGER, "elastic"), "autoscaled"),
        (written_by(checks.AUTOSCALER, "second"), "fixed"),
        (raised, "budget"),
        (doubled, "budget"),
    ],
    ids=["the autoscaler decided nothing", "the operator writes autoscaled replicas",
         "an autoscaler writes fixed replicas", "a replica too many", "pods too many"],
)  # fmt: skip
def test_a_falsified_course_is_found_out(change: Change, check: str) -> None:
    assert check in complaints([change(one) for one in COURSE])
