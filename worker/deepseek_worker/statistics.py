"""Counts per model that ModelStatistics reports.

Why it exists: load generators read the growth of these counters. Only requests that
reached a model count here; metrics for monitoring are in :mod:`deepseek_worker.metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deepseek_engine.client import ModelInfo, ModelStats, Timing
from deepseek_protos import inference_pb2 as pb

from deepseek_worker.encoding import MODEL_VERSION

__all__ = ["Statistics"]

_NS_PER_MS = 1_000_000


@dataclass(slots=True)
class _Duration:
    count: int = 0
    ns: int = 0

    def add(self, ns: float) -> None:
        self.count += 1
        self.ns += int(ns)

    def message(self) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=self.count, ns=self.ns)


@dataclass(slots=True)
class _ModelCounters:
    success: _Duration = field(default_factory=_Duration)
    fail: _Duration = field(default_factory=_Duration)
    queue: _Duration = field(default_factory=_Duration)
    compute_input: _Duration = field(default_factory=_Duration)
    compute_infer: _Duration = field(default_factory=_Duration)
    compute_output: _Duration = field(default_factory=_Duration)
    last_inference_ms: int = 0
    rows: int = 0
    batches: int = 0
    """Batches of all engine processes."""
    reported_batches: int = 0
    """Batches that the present engine process reported last; each process counts from zero."""


class Statistics:
    """Counters of all models since this worker started; they only grow."""

    def __init__(self) -> None:
        self._models: dict[str, _ModelCounters] = {}

    def succeeded(
        self, model: str, *, seconds: float, timing: Timing, rows: int, at_ms: int
    ) -> None:
        """Count an answered request; ``at_ms`` is the time of day in Unix milliseconds."""
        counters = self._models.setdefault(model, _ModelCounters())
        counters.success.add(seconds * 1e9)
        counters.queue.add(timing.queue_ms * _NS_PER_MS)
        counters.compute_input.add(timing.preprocess_ms * _NS_PER_MS)
        counters.compute_infer.add(timing.compute_ms * _NS_PER_MS)
        counters.compute_output.add(timing.postprocess_ms * _NS_PER_MS)
        counters.last_inference_ms = at_ms
        counters.rows += rows

    def failed(self, model: str, *, seconds: float) -> None:
        """Count a request that a model did not answer."""
        self._models.setdefault(model, _ModelCounters()).fail.add(seconds * 1e9)

    def reported(self, stats: Mapping[str, ModelStats]) -> None:
        """Take what a heartbeat of an engine process says."""
        for name, seen in stats.items():
            counters = self._models.setdefault(name, _ModelCounters())
            fresh = seen.batches < counters.reported_batches
            counters.batches += seen.batches - (0 if fresh else counters.reported_batches)
            counters.reported_batches = seen.batches

    def message(self, info: ModelInfo) -> pb.ModelStatistics:
        """The counters of one model as the protocol has them."""
        counters = self._models.get(info.name, _ModelCounters())
        message = pb.ModelStatistics(
            name=info.name,
            version=MODEL_VERSION,
            last_inference=counters.last_inference_ms,
            inference_count=counters.rows,
            execution_count=counters.batches,
            inference_stats=pb.InferStatistics(
                success=counters.success.message(),
                fail=counters.fail.message(),
                queue=counters.queue.message(),
                compute_input=counters.compute_input.message(),
                compute_infer=counters.compute_infer.message(),
                compute_output=counters.compute_output.message(),
            ),
        )
        if info.memory_bytes:
            message.memory_usage.add(type="CPU", id=0, byte_size=info.memory_bytes)
        return message
