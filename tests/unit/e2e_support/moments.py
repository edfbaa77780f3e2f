"""Samples of a pipeline of one fixed and one autoscaled model, as a sampler records them."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.support.cluster_checks import AUTOSCALER, MANAGER
from tests.support.cluster_sampler import Autoscaler, PodSeen, Sample

EARLY, LATE = "2026-05-04T10:00:00Z", "2026-05-04T10:00:05Z"


def scaler(desired: int = 1, *, last: str = "", least: int = 1, most: int = 3) -> Autoscaler:
    return Autoscaler(minimum=least, maximum=most, desired=desired, last_scale=last)


def pods(model: str, ready: int, *, ending: int = 0, starting: int = 0) -> tuple[PodSeen, ...]:
    states = [(True, False)] * ready + [(False, True)] * ending + [(False, False)] * starting
    return tuple(
        PodSeen(uid=f"{model}-{number}", model=model, ready=is_ready, ending=ends)
        for number, (is_ready, ends) in enumerate(states)
    )


def moment(at: float = 0.0, **changes: Any) -> Sample:
    """Fixed: two replicas, autoscaled: one of at most three; all is well."""
    usual = Sample(
        at=at,
        replicas={"fixed": 2, "scaled": 1},
        uids={"fixed": "d1", "scaled": "d2"},
        writers={"fixed": (MANAGER,), "scaled": (AUTOSCALER,)},
        seen=pods("fixed", 2) + pods("scaled", 1),
        autoscalers={"scaled": scaler(1, last=EARLY)},
        granted={"fixed": 2, "scaled": 3},
        floors={"fixed": 1, "scaled": 1},
        says_ready=True,
    )
    return dataclasses.replace(usual, **changes)


def scaled(at: float, replicas: int, **changes: Any) -> Sample:
    """The same moment with other replicas of the autoscaled model."""
    return moment(at, replicas={"fixed": 2, "scaled": replicas}, **changes)


def every_100_ms(*parts: tuple[float, dict[str, Any]]) -> list[Sample]:
    """Moments, part after part: how long, and what is different from a good moment."""
    found, at = [], 0.0
    for seconds, changes in parts:
        for _ in range(round(seconds / 0.1)):
            found.append(moment(at, **changes))
            at += 0.1
    return found
