"""A status that lies, a budget that is broken and an orphan are found; honest moments pass."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import cluster_checks as checks
from tests.support.cluster_sampler import Census, Sample
from tests.unit.e2e_support.moments import every_100_ms, moment, pods, scaler

GONE: dict[str, Any] = {"seen": pods("fixed", 1) + pods("scaled", 1)}
"""A replica of the fixed model is missing and status says Ready."""


@pytest.mark.parametrize(
    ("changes", "complaints"),
    [
        ({}, []),
        ({**GONE, "says_ready": False}, []),
        (GONE, ["fixed has 1 of 2 ready"]),
        (
            {"seen": pods("fixed", 1, starting=1) + pods("scaled", 1)},
            ["fixed has 1 of 2 ready"],
        ),
        (
            {"replicas": {"fixed": 1, "scaled": 1}, "seen": pods("fixed", 1) + pods("scaled", 1)},
            ["fixed has 1 of 2 ready"],
        ),
        (
            {"replicas": {"scaled": 1}, "seen": pods("fixed", 2) + pods("scaled", 1)},
            ["fixed has no Deployment"],
        ),
        ({"replicas": {}, "seen": ()}, ["fixed has no Deployment", "scaled has no Deployment"]),
        ({"replicas": {"fixed": 2, "scaled": 2}}, ["scaled has 1 of 2 ready"]),
        (
            {"autoscalers": {"scaled": scaler(least=2)}},
            ["scaled has 1 of 2 ready"],
        ),
        ({"floors": {"fixed": 1, "scaled": 2}}, ["scaled has 1 of 2 ready"]),
        ({"floors": {"fixed": 1, "scaled": 2}, "granted": {"fixed": 2, "scaled": 1}}, []),
        ({"replicas": {"fixed": 2, "scaled": 9}}, ["scaled has 1 of 3 ready"]),
        ({"granted": {}}, ["Ready without any grant"]),
        ({"granted": {"fixed": 2, "scaled": 0}, "replicas": {"fixed": 2}}, []),
    ],
    ids=["all is well", "not called ready", "a pod is missing", "a pod starts",
         "replicas lowered to hide it", "no Deployment but old pods", "nothing there",
         "the autoscaler asked for more", "below the autoscaler's minimum", "below the floor",
         "a floor that the budget does not allow", "more than granted", "no grants",
         "nothing granted, nothing there"],
)  # fmt: skip
def test_ready_promises_what_was_granted(changes: dict[str, Any], complaints: list[str]) -> None:
    assert checks.untruths(moment(**changes)) == complaints


@pytest.mark.parametrize(
    ("parts", "seconds"),
    [
        ([(5, {})], 0.0),
        ([(1, {}), (3, GONE), (1, {})], 2.9),
        ([(2, GONE), (0.1, {}), (3, GONE)], 2.9),
        ([(4, GONE | {"operators": 0}), (1, GONE), (1, {})], 0.9),
        ([(4, GONE | {"blind": True, "epoch": 1}), (2, GONE | {"epoch": 2})], 1.9),
        ([(2, GONE), (2, GONE | {"epoch": 2})], 1.9),
        ([(3, GONE | {"says_ready": False}), (1, {})], 0.0),
    ],
    ids=["no lie", "one lie", "two lies are not added up", "the operator is down, then it can tell",
         "the operator is cut off, then it can tell", "an outage without samples", "honest"],
)  # fmt: skip
def test_a_lie_lasts_while_an_operator_could_tell(
    parts: list[tuple[float, dict[str, Any]]], seconds: float
) -> None:
    assert checks.longest_lie(every_100_ms(*parts)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("changes", "killed", "complaints"),
    [
        ({}, (), 0),
        ({"replicas": {"fixed": 3, "scaled": 1}}, (), 1),
        ({"autoscalers": {"scaled": scaler(most=4)}}, (), 1),
        ({"autoscalers": {}, "replicas": {"fixed": 3, "scaled": 2}}, (), 0),
        ({"seen": pods("fixed", 3, ending=1) + pods("scaled", 2)}, (), 1),
        ({"seen": pods("fixed", 3, ending=1) + pods("scaled", 2)}, ("fixed-3",), 0),
        ({"seen": pods("fixed", 4) + pods("scaled", 2)}, ("somebody",), 1),
    ],
    ids=["full", "replicas", "an autoscaler may go further", "no autoscaler", "an ending pod",
         "beside a killed pod", "another pod was killed"],
)  # fmt: skip
def test_a_budget_holds_for_what_exists_and_what_may(
    changes: dict[str, Any], killed: tuple[str, ...], complaints: int
) -> None:
    found = checks.budget_complaints([moment(**changes)], 5, killed=killed)
    assert len(found) == complaints


@pytest.mark.parametrize(
    ("lasting", "epochs", "seconds"),
    [
        (0, [0] * 10, 0.0),
        (1, [0] * 10, 0.0),
        (7, [0] * 10, 6.0),
        (7, [0] * 4 + [2] * 6, 3.0),
    ],
    ids=["none", "seen once", "for some time", "the API server was away meanwhile"],
)
def test_an_orphan_counts_from_when_it_could_be_collected(
    lasting: int, epochs: list[int], seconds: float
) -> None:
    census = [
        Census(
            at=float(at),
            ownerless=frozenset({"Pod left (u1)"} if at < lasting else set()),
            epoch=epoch,
        )
        for at, epoch in enumerate(epochs)
    ]
    assert checks.longest_orphan(census)[0] == seconds


def test_two_orphans_one_after_the_other_are_two() -> None:
    census = [Census(at=float(at), ownerless=frozenset({f"Pod p{at} (u)"})) for at in range(9)]
    assert checks.longest_orphan(census)[0] == 0.0


class Looked:
    """What the check of the rate reads off a sampler."""

    def __init__(self, samples: list[Sample], missed: int) -> None:
        self.samples, self.missed = samples, missed


@pytest.mark.parametrize(
    ("gap_s", "count", "missed", "complaints"),
    [
        (0.1, 100, 0, []),
        (0.1, 100, 5, []),
        (0.3, 100, 0, ["half of the samples are more than 0.300 s apart"]),
        (0.1, 100, 20, ["17% of the samples were missed"]),
        (0.1, 3, 0, ["there are only 3 samples"]),
    ],
    ids=["as promised", "some missed", "slow", "many missed", "hardly any"],
)
def test_a_sampler_that_is_too_slow_proves_nothing(
    gap_s: float, count: int, missed: int, complaints: list[str]
) -> None:
    sampler: Any = Looked([moment(number * gap_s) for number in range(count)], missed)
    assert checks.rate_complaints(sampler) == complaints


def test_an_outage_is_no_slow_sampler() -> None:
    samples = [moment(number * 0.1) for number in range(6)]
    samples += [moment(60 + number * 0.1, epoch=2) for number in range(6)]
    sampler: Any = Looked(samples, 0)
    assert checks.median_gap(sampler) == pytest.approx(0.1)
