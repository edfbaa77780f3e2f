"""Timing calls on a GPU: one graph of many calls, inputs too many for the cache, turns by round.

Why it exists: a kernel of microseconds is lost in the launches of Python, and inputs that stay in
the L2 cache flatter whatever is bound by memory. Each subject brings as many copies of its inputs
as the cache cannot hold; all calls of a turn are one CUDA graph; a figure is the median over rounds
in which every subject has its turn. The timer is given from outside, so that this runs without a
GPU.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Call", "CudaTimer", "Measured", "Prepared", "Timer", "copies_for", "measure", "spread"]

Call = Callable[[], Any]
"""One call of a subject with inputs of its own."""
_MIN_TURN_S = 0.004
"""A turn shorter than this is repeated within its graph."""
_MAX_CALLS = 256
_MAX_COPIES = 48


class Prepared(Protocol):
    """Calls that are ready to be timed."""

    graph: bool
    """Whether they run as a CUDA graph."""

    def seconds(self) -> float:
        """Seconds of one call, from one turn."""
        ...


class Timer(Protocol):
    """Prepares calls for timing."""

    def prepare(self, calls: Sequence[Call]) -> Prepared:
        """Warm up and make ready.

        Raises:
            Exception: what the calls raise.
        """
        ...


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of a call, by round."""

    rounds: tuple[float, ...]
    graph: bool

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.rounds)


def copies_for(nbytes: int, cache_bytes: int) -> int:
    """How many copies of inputs are four times what a cache holds."""
    return max(1, min(_MAX_COPIES, math.ceil(4 * cache_bytes / max(1, nbytes))))


def measure(
    subjects: Mapping[str, Sequence[Call]], timer: Timer, *, rounds: int
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Time subjects by turns.

    Args:
        subjects: calls by name; a subject's calls differ in their copies of the inputs.
        timer: prepares and times.
        rounds: turns of each subject.

    Returns:
        What was measured, and for subjects that failed, why.
    """
    ready: dict[str, Prepared] = {}
    failed: dict[str, str] = {}
    for name, calls in subjects.items():
        try:
            ready[name] = timer.prepare(calls)
        # A peer that cannot run a shape must not take the others with it.
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:300]
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, prepared in ready.items():
            times[name].append(prepared.seconds())
    found = {name: Measured(tuple(t), ready[name].graph) for name, t in times.items()}
    return found, failed


def spread(values: Sequence[float]) -> tuple[float, float]:
    """10th and 90th percentile, interpolated."""
    ordered = sorted(values)

    def at(part: float) -> float:
        place = part * (len(ordered) - 1)
        below = math.floor(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (place - below)

    return at(0.1), at(0.9)


class CudaTimer:
    """Times calls with events around the replay of a CUDA graph."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def prepare(self, calls: Sequence[Call]) -> Prepared:
        """Warm up, find how often a turn repeats the calls, and capture it."""
        torch = self._torch
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for call in calls:  # compilers and autotuners work in these
                call()
            torch.cuda.synchronize()
            once = _elapsed(torch, lambda: [call() for call in calls]) / len(calls)
        torch.cuda.current_stream().wait_stream(stream)
        count = min(_MAX_CALLS, max(len(calls), math.ceil(_MIN_TURN_S / max(once, 1e-7))))
        turn = [calls[index % len(calls)] for index in range(count)]
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for call in turn:
                    call()
            run: Callable[[], object] = graph.replay
        except RuntimeError:
            torch.cuda.synchronize()

            def run() -> object:
                return [call() for call in turn]

            graph = None
        run()
        torch.cuda.synchronize()
        return _Turn(torch, run, count, graph is not None)


class _Turn:
    def __init__(self, torch: Any, run: Callable[[], object], count: int, graph: bool) -> None:
        self._torch, self._run, self._count, self.graph = torch, run, count, graph

    def seconds(self) -> float:
        return _elapsed(self._torch, self._run) / self._count


def _elapsed(torch: Any, run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
