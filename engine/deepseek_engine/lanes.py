"""A model's place on its device: its queue, its counters, and the copies of it that can answer.

Why it exists: a model may be loaded at two precisions, and which of them computes a batch is
decided when the batch starts. Everything else (queue, weight, admission) belongs to the model and
not to a copy. It runs nothing and knows no clock.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from deepseek_engine.batching import BatchQueue
from deepseek_engine.jobs import PartWork
from deepseek_engine.latency import LatencyModel
from deepseek_engine.loading import Loaded
from deepseek_engine.messages import ModelStats
from deepseek_engine.precision import PrecisionSwitch

__all__ = ["Lane", "Twin"]

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Twin:
    """A lower-precision copy, and what decides when it computes."""

    loaded: Loaded
    switch: PrecisionSwitch
    latency: LatencyModel = field(default_factory=LatencyModel)
    """How long the copy's batches take."""


@dataclass(slots=True, eq=False)
class Lane:
    """One model of a device."""

    name: str
    queue: BatchQueue[PartWork]
    stats: ModelStats = field(default_factory=ModelStats)
    loaded: Loaded | None = None
    twin: Twin | None = None
    _latency: LatencyModel = field(init=False)

    def __post_init__(self) -> None:
        self._latency = self.queue.latency

    @property
    def serving(self) -> Loaded:
        """The copy that computes the next batch.

        Raises:
            RuntimeError: the model is not loaded.
        """
        if self.loaded is None:
            raise RuntimeError("a batch was made for a model that is not loaded")
        return self.twin.loaded if self.twin and self.twin.switch.lowered else self.loaded

    @property
    def memory_bytes(self) -> int:
        """Estimated memory of all copies."""
        copies = (self.loaded, self.twin.loaded if self.twin else None)
        return sum(loaded.info.memory_bytes for loaded in copies if loaded is not None)

    def set_twin(self, twin: Twin | None) -> Twin | None:
        """Give the model a second copy, or take it away; gives the one that was there."""
        before, self.twin = self.twin, twin
        self._show()
        return before

    def update(self, *, load: float, own: float, now: float) -> None:
        """Choose the copy for the next batch.

        Args:
            load: busy share of the device.
            own: the part of it that this model took.
            now: seconds on the engine's clock.
        """
        if self.twin is None or not self.twin.switch.update(load=load, own=own, now=now):
            return
        self.stats.precision_switches += 1
        self._show()
        logger.info(
            "precision lowered" if self.twin.switch.lowered else "precision raised again",
            extra={
                "model": self.name,
                "variant": self.serving.info.variant,
                "device_load": round(load, 3),
            },
        )

    def observe(self, loaded: Loaded, *, rows: int, seconds: float) -> None:
        """Count the rows of a batch by the copy that computed it, and learn what they cost."""
        variant = loaded.info.variant
        self.stats.variant_rows[variant] = self.stats.variant_rows.get(variant, 0) + rows
        # Only back ends that have a faster way report what missed it.
        for reason, count in getattr(loaded.backend, "fallbacks", {}).items():
            self.stats.fallbacks[f"{variant}/{reason}"] = count
        if self.twin is not None:
            lowered = loaded is self.twin.loaded
            self.twin.switch.observe(lowered=lowered, rows=rows, seconds=seconds)

    def ready(self, loaded: Loaded) -> None:
        """Let a loaded copy compute the model's batches."""
        self.loaded = loaded
        self._show()

    def close(self) -> None:
        """Free all copies."""
        copies = (self.loaded, self.twin.loaded if self.twin else None)
        self.loaded = self.twin = None
        for loaded in copies:
            if loaded is not None:
                loaded.backend.close()

    def _show(self) -> None:
        lowered = self.twin is not None and self.twin.switch.lowered
        # Each copy has its own times, and a batch is cut by those of the copy that will run it.
        self.queue.latency = self.twin.latency if self.twin and lowered else self._latency
        if self.loaded is not None:
            self.stats.precision = self.serving.info.precision
