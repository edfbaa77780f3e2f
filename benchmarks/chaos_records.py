"""The records of a run of random kills.

Why it exists: the end-to-end test measures and judges; what of it stands on the performance page
is decided here, where it can be tested without a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.machine import Stamp
from benchmarks.record import Record
from benchmarks.stats import Rounds

__all__ = ["BENCH", "Course", "Turn", "chaos_records"]

BENCH = "operator_chaos"
"""Name of the results."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One kill."""

    kind: str
    recovery_s: float
    """From the kill (or from the end of the outage that it caused) until all was whole again."""
    whole_s: float
    """From the edit before the kill until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a run showed."""

    turns: tuple[Turn, ...]
    samples: int
    missed: int
    """Samples that failed although the API server was not kept away."""
    median_gap_s: float
    """Time between two samples."""
    budget: int
    most_possible: int
    """Most replicas that could exist at one moment without another write of the operator."""
    longest_lie_s: float
    """Longest time for which Ready was said and not so, by an operator that could tell."""
    longest_orphan_s: float
    """Longest time for which an object had no living owner."""
    longest_orphan: str
    autoscaler_changes: int
    """How often the autoscaled model's replicas changed."""


def chaos_records(stamp: Stamp, course: Course) -> list[Record]:
    """Figures of a run: recovery for each kind of kill, then what was seen throughout."""
    records = []
    for kind in sorted({turn.kind for turn in course.turns}):
        records += _recovery(stamp, kind, [t.recovery_s for t in course.turns if t.kind == kind])
    records += _recovery(stamp, "all kinds", [turn.recovery_s for turn in course.turns])
    case, n = f"whole run ({len(course.turns)} kills)", course.samples
    facts = (
        ("longest untrue Ready", "s", course.longest_lie_s),
        ("most replicas that may exist", "", course.most_possible),
        ("longest time without a living owner", "s", course.longest_orphan_s),
        ("changes by the autoscaler", "", course.autoscaler_changes),
        ("between two samples, median", "s", course.median_gap_s),
        ("missed samples", "", course.missed),
    )
    return records + [
        stamp.fact(case, metric, unit, value=value, n=n) for metric, unit, value in facts
    ]


def _recovery(stamp: Stamp, kind: str, times: Sequence[float]) -> list[Record]:
    rounds = Rounds(tuple(times), len(times))
    return [
        stamp.alone(kind, "recovery, p50", "s", subject=rounds),
        stamp.fact(kind, "recovery, longest", "s", value=max(times), n=len(times)),
    ]
