"""Measuring variants against fp32: how close the answers are, and how fast they come.

Speeds are taken in rounds in which every variant has its turn, so that a machine whose speed
drifts treats all alike; figures are medians over the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from deepseek_engine.backends.onnxruntime import session_options

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]

ROUNDS = 15
WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one call."""

    median_ms: float
    p90_ms: float


def open_session(graph: str | bytes, *, threads: int) -> ort.InferenceSession:
    """Open a graph (a path or its bytes) as the serving back end does."""
    options = session_options(threads=threads)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def answers(session: ort.InferenceSession, feeds: Sequence[Feed]) -> list[Array]:
    """The first output for every feed."""
    return [session.run(None, dict(feed))[0] for feed in feeds]


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every call once a round."""
    for call in calls.values():
        for _ in range(WARM_UPS):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = clock()
            call()
            taken[name].append((clock() - started) * 1e3)
    return {name: _summary(values) for name, values in taken.items()}


def _summary(values: list[float]) -> Timing:
    return Timing(
        median_ms=statistics.median(values),
        p90_ms=float(np.quantile(np.asarray(values), 0.9)),
    )


def cosines(first: Array, second: Array) -> Array:
    """Cosine between rows of two arrays ``[N, ...]``; 1 is the same direction."""
    first, second = first.reshape(len(first), -1), second.reshape(len(second), -1)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products: Array = (first * second).sum(axis=1) / np.maximum(lengths, 1e-30)
    return products
