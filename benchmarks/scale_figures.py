"""From what a scale run saw to its figures: rates, slopes, and what was full first.

Why it exists: this is the arithmetic of `operator_scale`, apart from clusters and processes, so
that it can be tested with numbers made up for it. Nothing here measures.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "FULL_CORE", "OPERATOR", "REST", "Bottleneck", "Look", "Usage", "bottleneck", "growth",
    "mean_rate", "nearest_rank", "slope_per_hour", "usage", "worst_rate",
]  # fmt: skip

OPERATOR = "operator"
"""Name of the operator among the processes."""
REST = "everything else on the machine"
"""Name of what belongs to nobody in the run; large: the machine was not quiet."""
FULL_CORE = 0.85
"""A process of one thread that uses this share of a core waits for little else; the same share of
all cores is a full machine, because the scheduler cannot place the last bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Everything that is counted, at one moment. Sums grow from the start of their process."""

    at: float
    """Monotonic time, seconds."""
    rss_mib: float
    """Resident memory of the operator."""
    cpu_s: Mapping[str, float]
    """User and system time by process."""
    depth: float
    """Pipelines that are due and wait."""
    busy: float
    """Pipelines that are being reconciled."""
    reconciles: float
    """Runs of the reconciler."""
    reconcile_s: float
    """Seconds spent in them."""
    requests: float
    """Requests of the operator that the API server took up; a watch counts once."""
    request_s: float
    """Seconds that it spent on them, without waiting."""
    waited_s: float
    """Seconds for which it let them wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was used between the first and the last of some looks."""

    seconds: float
    cores: Mapping[str, float]
    """Processor time by process, as a number of cores."""
    depth: float
    """Mean of the queue's depth."""
    busy: float
    """Mean of the pipelines that were being reconciled."""
    reconciles: float
    """Runs a second."""
    reconcile_s: float
    """Mean duration of a run."""
    requests: float
    """Requests a second."""
    request_s: float
    """Mean duration of a request inside the API server, waiting included."""


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What was full first, or that nothing was."""

    name: str
    share: float
    """How full it was, 1 is completely."""


def nearest_rank(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least this share of the values does not exceed.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("a percentile needs values")
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """Slope of the least-squares line through (seconds, value), per hour.

    Raises:
        ValueError: the points do not differ in time.
    """
    if len({at for at, _ in points}) < 2:
        raise ValueError("a slope needs points at two times")
    return statistics.linear_regression(*zip(*points, strict=True)).slope * 3600.0


def growth(points: Sequence[tuple[float, float]]) -> float:
    """By how much the least-squares line rises from the first to the last point."""
    return slope_per_hour(points) / 3600.0 * (points[-1][0] - points[0][0])


def mean_rate(looks: Sequence[Look]) -> float:
    """Requests a second between the first and the last look."""
    return _rate(looks[0], looks[-1])


def worst_rate(looks: Sequence[Look], *, window_s: float = 60.0) -> float:
    """Requests a second in the worst stretch of at least so many seconds.

    Raises:
        ValueError: the looks cover less.
    """
    rates = []
    end = 0
    for start in looks:
        while end < len(looks) and looks[end].at - start.at < window_s:
            end += 1
        if end == len(looks):
            break
        rates.append(_rate(start, looks[end]))
    if not rates:
        raise ValueError(f"the looks cover less than {window_s:g} s")
    return max(rates)


def usage(looks: Sequence[Look]) -> Usage:
    """What was used between the first and the last look.

    Raises:
        ValueError: there are less than two looks.
    """
    if len(looks) < 2:
        raise ValueError("usage needs two looks")
    first, last = looks[0], looks[-1]
    seconds = last.at - first.at
    runs, requests = last.reconciles - first.reconciles, last.requests - first.requests
    inside = last.request_s + last.waited_s - first.request_s - first.waited_s
    return Usage(
        seconds=seconds,
        cores={name: (last.cpu_s[name] - first.cpu_s[name]) / seconds for name in last.cpu_s},
        depth=statistics.fmean(look.depth for look in looks),
        busy=statistics.fmean(look.busy for look in looks),
        reconciles=runs / seconds,
        reconcile_s=(last.reconcile_s - first.reconcile_s) / runs if runs else 0.0,
        requests=requests / seconds,
        request_s=inside / requests if requests else 0.0,
    )


def bottleneck(used: Usage, *, cores: int, concurrency: int) -> Bottleneck:
    """What was full first.

    The order is that of the causes: a full event loop makes requests look slow, and a full machine
    makes everything look slow, so only what remains can be blamed on waiting.

    Args:
        used: from `usage`, while there was work.
        cores: of the machine.
        concurrency: most pipelines that the operator looks at together.
    """
    own = used.cores.get(OPERATOR, 0.0)
    if own >= FULL_CORE:
        return Bottleneck("the operator's one thread", own)
    total = sum(used.cores.values())
    if total >= FULL_CORE * cores:
        most = max(used.cores, key=lambda name: used.cores[name])
        return Bottleneck(f"the {cores} cores of the machine, most of them {most}", total / cores)
    if used.busy >= FULL_CORE * concurrency:
        return Bottleneck(
            f"{concurrency} reconciles at a time that wait for the API server",
            used.busy / concurrency,
        )
    return Bottleneck("nothing was full", max(own, total / cores, used.busy / concurrency))


def _rate(first: Look, last: Look) -> float:
    return (last.requests - first.requests) / (last.at - first.at)
