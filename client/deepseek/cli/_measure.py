"""Throughput of a loaded model on made-up samples.

Why it exists: ``deepseek-infer`` without inputs answers "how fast is this here?". It is a quick
look on an otherwise idle machine, not a benchmark: those are in ``benchmarks/``.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from deepseek_engine.hardware import usable_threads

from deepseek.cli import _samples
from deepseek.cli._console import say, show, table

if TYPE_CHECKING:
    from deepseek import InferenceEngine

_WARM_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured."""

    precision: str
    variant: str
    batch_size: int
    batches: int
    samples_per_second: float
    median_ms: float
    p90_ms: float
    threads: int

    def to_json(self) -> dict[str, Any]:
        """The measurement for programs."""
        return asdict(self)


def measure(engine: InferenceEngine, *, batch_size: int, seconds: float) -> Measurement:
    """Compute batches one after the other for some seconds.

    Args:
        engine: a loaded model.
        batch_size: samples of a batch.
        seconds: how long to measure, after warming up.
    """
    samples = _samples.synthetic(engine.info, batch_size)
    for _ in range(_WARM_BATCHES):
        engine.batch_infer(samples, batch_size=batch_size)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times:
        started = time.perf_counter()
        engine.batch_infer(samples, batch_size=batch_size)
        times.append(time.perf_counter() - started)
    info = engine.info
    return Measurement(
        precision=info.precision,
        variant=info.variant,
        batch_size=batch_size,
        batches=len(times),
        samples_per_second=round(batch_size * len(times) / sum(times), 2),
        median_ms=round(statistics.median(times) * 1000, 3),
        p90_ms=round(sorted(times)[int(0.9 * (len(times) - 1))] * 1000, 3),
        threads=usable_threads(),
    )


def show_measurement(made: Measurement, *, model: str, device: str) -> None:
    """Print a measurement."""
    say(f"{model} on {device}, {made.precision} (variant {made.variant})", style="bold")
    row = (
        str(made.batch_size),
        str(made.batches),
        f"{made.samples_per_second:.1f}",
        f"{made.median_ms:.2f} ms",
        f"{made.p90_ms:.2f} ms",
    )
    columns = ("BATCH SIZE", "BATCHES", "SAMPLES/S", "MEDIAN", "P90")
    show(table(columns, [row], right=columns))
    say(f"Made-up samples, {made.threads} threads, one batch after the other.")
