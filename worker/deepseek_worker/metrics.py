"""Prometheus metrics of a worker.

Why it exists: one registry per worker holds what the front end measures itself (requests,
latencies) and what the engine reports with its heartbeats (queue, batches, device time).
Labels never hold anything that a client chooses: requests for unknown models are counted under an
empty name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from deepseek_engine.client import DeviceStats, ModelStats
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from deepseek_worker.device_metrics import device_families, precision_families
from deepseek_worker.fleet import Fleet, ModelStatus, Phase
from deepseek_worker.generation_metrics import generation_families

__all__ = ["Metrics", "Series", "WorkerCollector", "resident_bytes"]

_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MODEL = ("model",)


_TOKEN_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip


class Series(NamedTuple):
    """Histograms of one model."""

    duration: Histogram
    queue: Histogram
    compute: Histogram


class Metrics:
    """What the front end measures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ("model", "precision")
        self.requests = Counter(
            "deepseek_requests",
            "Inference requests by gRPC status code and reason.",
            (*model, "code", "reason"),
            registry=self.registry,
        )
        self.duration = Histogram(
            "deepseek_request_duration_seconds",
            "Time from the decoded request to the encoded answer.",
            model,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue = Histogram(
            "deepseek_queue_seconds",
            "Time that answered requests waited for a batch.",
            model,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.compute = Histogram(
            "deepseek_compute_seconds",
            "Time that the batches of answered requests took on the device.",
            model,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.running = Gauge(
            "deepseek_requests_running",
            "Requests that were taken and are not answered yet.",
            _MODEL,
            registry=self.registry,
        )

        self.first_token_seconds = Histogram(
            "deepseek_time_to_first_token_seconds",
            "Time from a request to the first token of its answer.",
            _MODEL,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.inter_token_seconds = Histogram(
            "deepseek_inter_token_seconds",
            "Time between tokens of an answer; those that came together share it.",
            _MODEL,
            buckets=_TOKEN_SECONDS,
            registry=self.registry,
        )

        self._answered: dict[tuple[str, str, str, str], Counter] = {}
        self._series: dict[tuple[str, str], Series] = {}

    # The library looks a series up by checking and joining its labels, which costs more than
    # counting; the few series that there are stay at hand.

    def answered(self, model: str, precision: str, code: str, reason: str) -> None:
        """Count one request."""
        key = (model, precision, code, reason)
        counter = self._answered.get(key)
        if counter is None:
            counter = self._answered[key] = self.requests.labels(*key)
        counter.inc()

    def first_token(self, model: str, seconds: float) -> None:
        """Note when the first token of an answer came."""
        self.first_token_seconds.labels(model).observe(seconds)

    def between_tokens(self, model: str, seconds: float, tokens: int) -> None:
        """Note that so many tokens came after so many seconds."""
        histogram = self.inter_token_seconds.labels(model)
        for _ in range(tokens):
            histogram.observe(seconds / tokens)

    def series(self, model: str, precision: str) -> Series:
        """The times of a model's requests."""
        key = (model, precision)
        found = self._series.get(key)
        if found is None:
            families = (self.duration, self.queue, self.compute)
            found = self._series[key] = Series(*(family.labels(*key) for family in families))
        return found

    def exposition(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


class WorkerCollector(Collector):
    """What the engine's heartbeats and the supervisor say, read when it is scraped."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        stats: Callable[[], Mapping[str, ModelStats]],
        devices: Callable[[], Mapping[str, DeviceStats]],
        weights: Mapping[str, float],
        restarts: Callable[[], int],
        processes: Callable[[], Mapping[str, int]],
    ) -> None:
        """Prepare a collector.

        Args:
            fleet: the models and their states.
            stats: the engine's counters by model.
            devices: load and memory by device.
            weights: configured shares of device time by model.
            restarts: how often the engine process was restarted.
            processes: process ids by role.
        """
        self._fleet = fleet
        self._stats = stats
        self._devices = devices
        self._weights = weights
        self._restarts = restarts
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        """All families; a model has samples from its configuration on."""
        statuses = self._fleet.statuses()
        yield from self._model_families(statuses)
        stats = self._stats()
        yield from self._engine_families(stats)
        yield from precision_families(stats)
        yield from generation_families(stats)
        yield from device_families(self._devices())
        restarts = CounterMetricFamily(
            "deepseek_engine_restarts", "How often the engine process was restarted."
        )
        restarts.add_metric((), self._restarts())
        yield restarts
        memory = GaugeMetricFamily(
            "deepseek_process_resident_memory_bytes", "Resident memory.", labels=("process",)
        )
        for role, pid in self._processes().items():
            if (size := resident_bytes(pid)) is not None:
                memory.add_metric((role,), size)
        yield memory

    def _model_families(self, statuses: Iterable[ModelStatus]) -> Iterable[Metric]:
        ready = GaugeMetricFamily(
            "deepseek_model_ready", "1 when a real inference was answered.", labels=_MODEL
        )
        weight = GaugeMetricFamily(
            "deepseek_weight", "Configured share of device time.", labels=_MODEL
        )
        memory = GaugeMetricFamily(
            "deepseek_model_memory_bytes", "Memory that the model holds.", labels=_MODEL
        )
        facts = ("model", "task", "backend", "variant", "precision", "random_weights", "digest")
        info = GaugeMetricFamily("deepseek_model_info", "Always 1; labels say.", labels=facts)
        for status in statuses:
            ready.add_metric((status.name,), float(status.phase is Phase.READY))
            weight.add_metric((status.name,), self._weights[status.name])
            if status.info is not None:
                known = status.info
                memory.add_metric((status.name,), known.memory_bytes)
                random = "true" if known.random_weights else "false"
                labels = (known.task, known.backend, known.variant, known.precision, random)
                info.add_metric((status.name, *labels, known.digest), 1)
        return (ready, weight, memory, info)

    def _engine_families(self, stats: Mapping[str, ModelStats]) -> Iterable[Metric]:
        waiting = GaugeMetricFamily(
            "deepseek_requests_waiting",
            "Requests that the engine took and that have no part in a batch yet.",
            labels=_MODEL,
        )
        device = CounterMetricFamily(
            "deepseek_device_seconds", "Time that the device spent on the model.", labels=_MODEL
        )
        releases = CounterMetricFamily(
            "deepseek_batch_release",
            "Batches by the reason for which they were released.",
            labels=("model", "reason"),
        )
        rows = HistogramMetricFamily("deepseek_batch_rows", "Rows of a batch.", labels=_MODEL)
        for name in self._weights:
            # While an engine process starts its counters are zero, as they are when it reports.
            counters = stats.get(name) or ModelStats()
            waiting.add_metric((name,), counters.waiting)
            device.add_metric((name,), counters.device_seconds)
            for reason, count in counters.releases.items():
                releases.add_metric((name, reason), count)
            total = sum(size * count for size, count in counters.batch_rows.items())
            rows.add_metric((name,), _buckets(counters.batch_rows), total)
        return (waiting, device, releases, rows)


def _buckets(batches: Mapping[int, int]) -> list[tuple[str, float]]:
    """Cumulative counts of batches by their upper bound in rows."""
    bounds = [
        (str(float(bound)), float(sum(n for size, n in batches.items() if size <= bound)))
        for bound in _ROWS
    ]
    return [*bounds, ("+Inf", float(sum(batches.values())))]


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process in bytes, or None where the system does not tell."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
