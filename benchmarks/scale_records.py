"""The records of a scale run.

Why it exists: the same figures are told for both parts of the run, and which of them have a bar is
decided by their names alone (see `bars`). Pure; `operator_scale` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.machine import Stamp
from benchmarks.record import Record
from benchmarks.scale_figures import (
    OPERATOR,
    Look,
    bottleneck,
    growth,
    mean_rate,
    nearest_rank,
    slope_per_hour,
    usage,
    worst_rate,
)
from benchmarks.stats import Rounds

__all__ = ["BENCH", "Bulk", "Size", "bulk_records", "idle_records", "paced_records"]

BENCH = "operator_scale"
"""Name of the bench."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many pipelines, and how many models each has."""

    pipelines: int
    models: int

    def __str__(self) -> str:
        """For a table."""
        return f"{self.pipelines:,} pipelines, {self.pipelines * self.models:,} Deployments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """What came of many pipelines that were applied at once; times from the first apply."""

    size: Size
    apply_s: float
    """The last pipeline was applied."""
    children_s: float
    """The last child existed."""
    ready_s: float
    """The operator called the last pipeline ready."""
    children: int
    """Children that exist at the end."""
    looks: tuple[Look, ...]
    """From the first apply to the last child."""


def bulk_records(
    stamp: Stamp, bulk: Bulk, *, cores: int, concurrency: int, part: str = ""
) -> list[Record]:
    """Figures of pipelines that were applied at once.

    Args:
        stamp: of the run.
        bulk: what was seen.
        cores: of the machine.
        concurrency: of the operator.
        part: put in front of every case of a part without bars.
    """
    case, used = _case(f"applied at once ({bulk.size})", part), usage(bulk.looks)
    full = bottleneck(used, cores=cores, concurrency=concurrency)
    records = [
        stamp.fact(case, "until all applied", "s", value=bulk.apply_s, n=bulk.size.pipelines),
        stamp.fact(case, "until all children exist", "s", value=bulk.children_s, n=bulk.children),
        stamp.fact(case, "until all ready", "s", value=bulk.ready_s, n=bulk.size.pipelines),
    ]
    case = _case("meanwhile", part)
    runs = max(1, round(used.reconciles * used.seconds))
    requests = max(1, round(used.requests * used.seconds))
    records += [
        stamp.fact(
            _case(f"first bottleneck ({full.name})", part), "how full", "%", value=full.share * 100
        ),
        stamp.fact(case, "reconcile, mean", "s", value=used.reconcile_s, n=runs),
        stamp.fact(case, "reconciles", "/s", value=used.reconciles, n=runs),
        stamp.fact(
            case,
            "API request inside the server, mean",
            "ms",
            value=used.request_s * 1000,
            n=requests,
        ),
        stamp.fact(case, "API requests", "/s", value=used.requests, n=requests),
        stamp.fact(case, "queue depth, mean", "", value=used.depth, n=len(bulk.looks)),
        stamp.fact(case, "reconciles at a time, mean", "", value=used.busy, n=len(bulk.looks)),
    ]
    return records + [
        stamp.fact(case, f"processor time, {name}", "cores", value=value, n=len(bulk.looks))
        for name, value in sorted(used.cores.items(), key=lambda item: -item[1])
    ]


def paced_records(stamp: Stamp, latencies: Sequence[float]) -> list[Record]:
    """Figures of pipelines that were applied one a second."""
    case, n = "one pipeline a second", len(latencies)
    rounds = Rounds(tuple(latencies), n)
    return [
        stamp.alone(case, "apply to all children, p50", "s", subject=rounds),
        stamp.fact(case, "apply to all children, p99", "s", value=nearest_rank(latencies, 99), n=n),
        stamp.fact(case, "apply to all children, worst", "s", value=max(latencies), n=n),
    ]


def idle_records(
    stamp: Stamp, quiet: Sequence[Look], looks: Sequence[Look], size: Size, *, part: str = ""
) -> list[Record]:
    """Figures of a stretch without changes, and of the operator's memory.

    Args:
        stamp: of the run.
        quiet: looks of the stretch.
        looks: of the whole part of the run.
        size: pipelines that exist meanwhile.
        part: put in front of every case of a part without bars.
    """
    seconds = quiet[-1].at - quiet[0].at
    case = _case(f"idle ({size}, {seconds:.0f} s)", part)
    memory = _case("operator", part)
    points = [(look.at, look.rss_mib) for look in quiet]
    used = usage(quiet)
    return [
        stamp.fact(case, "API requests, mean", "/s", value=mean_rate(quiet), n=len(quiet)),
        stamp.fact(case, "API requests, worst minute", "/s", value=worst_rate(quiet), n=len(quiet)),
        stamp.fact(case, "reconciles", "/s", value=used.reconciles, n=len(quiet)),
        stamp.fact(
            case, "processor time, operator", "cores", value=used.cores[OPERATOR], n=len(quiet)
        ),
        stamp.fact(
            memory,
            "resident memory, most",
            "MiB",
            value=max(look.rss_mib for look in looks),
            n=len(looks),
        ),
        stamp.fact(
            memory, "resident memory, growth while idle", "MiB", value=growth(points), n=len(points)
        ),
        stamp.fact(
            memory,
            "resident memory, slope while idle",
            "MiB/h",
            value=slope_per_hour(points),
            n=len(points),
        ),
    ]


def _case(text: str, part: str) -> str:
    return f"{part}: {text}" if part else text
