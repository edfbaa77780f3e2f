"""Replicas that somebody else writes are found, also when nobody's name stands at the field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.cluster_checks import (
    AUTOSCALER,
    HANDOVER,
    MANAGER,
    autoscaler_complaints,
    fixed_writer_complaints,
)
from tests.support.cluster_sampler import Sample
from tests.unit.e2e_support.moments import EARLY, LATE, moment, scaled, scaler


def scalers(desired: int, last: str = EARLY) -> dict[str, Any]:
    return {"autoscalers": {"scaled": scaler(desired, last=last)}}


def by(*writers: str) -> dict[str, Any]:
    return {"writers": {"fixed": (MANAGER,), "scaled": writers}}


STEADY = [scaled(0.0, 3, **scalers(3)), scaled(0.1, 3, **scalers(3))]
NEW = {"uids": {"fixed": "d1", "scaled": "d3"}}
COURSES: dict[str, tuple[list[Sample], int]] = {
    "nothing happens": (STEADY, 0),
    "the autoscaler decides": ([*STEADY, scaled(0.2, 1, **scalers(1, LATE))], 0),
    "it tells a moment later": (
        [*STEADY, scaled(0.2, 1, **scalers(3)), scaled(0.3, 1, **scalers(1, LATE))],
        0,
    ),
    "it told a moment before": (
        [
            scaled(0.0, 3, **scalers(3)),
            scaled(0.1, 3, **scalers(1, LATE)),
            scaled(0.2, 1, **scalers(1, LATE)),
        ],
        0,
    ),
    "the first decision": (
        [scaled(0.0, 1, **scalers(1, ""), **by()), scaled(0.1, 3, **scalers(3, LATE), **by())],
        0,
    ),
    "released with no owner": ([*STEADY, scaled(0.2, 1, **scalers(3), **by())], 1),
    "released, and the autoscaler wishes the same later": (
        [*STEADY, scaled(0.2, 1, **scalers(3), **by()), scaled(0.3, 1, **scalers(1), **by())],
        1,
    ),
    "released and put back": (
        [
            *STEADY,
            scaled(0.2, 1, **scalers(3), **by()),
            scaled(1.2, 3, **scalers(3, LATE)),
        ],
        1,
    ),
    "it tells far too late": (
        [*STEADY, scaled(0.2, 1, **scalers(3)), scaled(9.0, 1, **scalers(1, LATE))],
        1,
    ),
    "the operator writes": ([*STEADY, scaled(0.2, 3, **scalers(3), **by(MANAGER))], 1),
    "somebody writes in the autoscaler's name": ([*STEADY, scaled(0.2, 2, **scalers(3))], 1),
    "the API server dies between the two writes": (
        [*STEADY, scaled(9.0, 1, **scalers(1), epoch=2)],
        0,
    ),
    "the handover outlives its end": (
        [scaled(0.0, 3, **scalers(3), **by(AUTOSCALER, HANDOVER))],
        1,
    ),
    "a handover before the first decision": (
        [
            scaled(0.0, 1, **scalers(0, ""), **by()),
            scaled(0.1, 2, **scalers(0, ""), **by(HANDOVER)),
        ],
        0,
    ),
    "a second handover": (
        [
            scaled(0.0, 1, **scalers(0, ""), **by()),
            scaled(0.1, 2, **scalers(0, ""), **by(HANDOVER)),
            scaled(0.2, 3, **scalers(0, ""), **by(HANDOVER)),
        ],
        1,
    ),
    "a handover after the autoscaler's write": (
        [*STEADY, scaled(0.2, 1, **scalers(3), **by(HANDOVER))],
        2,
    ),
    "another Deployment of the same name": ([*STEADY, scaled(0.2, 1, **scalers(3), **NEW)], 0),
}


@pytest.mark.parametrize(("samples", "complaints"), COURSES.values(), ids=COURSES)
def test_autoscaled_replicas_move_by_a_decision_only(
    samples: list[Sample], complaints: int
) -> None:
    found = autoscaler_complaints(samples, "scaled")
    assert len(found) == complaints, found


@pytest.mark.parametrize(
    ("writers", "complaints"),
    [((MANAGER,), 0), ((), 1), ((AUTOSCALER,), 1), ((MANAGER, "kubectl"), 1), ((HANDOVER,), 1)],
    ids=["the operator", "nobody", "an autoscaler", "a second one", "the handover manager"],
)
def test_fixed_replicas_are_the_operators(writers: tuple[str, ...], complaints: int) -> None:
    sample = moment(writers={"fixed": writers, "scaled": (AUTOSCALER,)})
    assert len(fixed_writer_complaints([sample], "fixed")) == complaints


def test_a_deployment_that_is_away_has_no_writer() -> None:
    assert fixed_writer_complaints([moment(replicas={}, writers={})], "fixed") == []
