"""A request on its way through the engine.

Why it exists: a request may be cut into parts that run in different batches, and its answer is
there when the last part is. This module puts the rows together again and keeps the times; it
decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from deepseek_api.errors import DeepseekError

from deepseek_engine.batching import Work
from deepseek_engine.codec import Array
from deepseek_engine.messages import ModelInfo
from deepseek_engine.tasks.base import Part, Prepared

__all__ = ["Job", "PartWork"]


@dataclass(slots=True, eq=False)
class Job:
    """One prepared request."""

    prepared: Prepared
    future: asyncio.Future[Mapping[str, Array]]
    enqueued: float
    """When it entered the queue, seconds on the engine's clock."""
    works: list[Work[PartWork]] = field(default_factory=list)
    started: float | None = None
    compute_s: float = 0.0
    batch_rows: int = 0
    """Rows of the largest batch that a part of it ran in."""
    _left: int = 0
    _results: dict[str, Array] = field(default_factory=dict)
    _served: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._left = len(self.prepared.parts)

    @property
    def queue_s(self) -> float:
        """How long it waited for its first batch."""
        return max(0.0, self.started - self.enqueued) if self.started is not None else 0.0

    @property
    def variant(self) -> str:
        """The variant that computed it; several, joined by ``+``, when its parts met a switch."""
        return "+".join(self._served)

    @property
    def precision(self) -> str:
        """The precision of the same."""
        return "+".join(dict.fromkeys(self._served.values()))

    def begin(self, now: float, info: ModelInfo) -> bool:
        """A part of it starts to run; True for the first one.

        Args:
            now: seconds on the engine's clock.
            info: of the copy that computes the part.
        """
        self._served[info.variant] = info.precision
        if self.started is not None:
            return False
        self.started = now
        return True

    def add(self, part: Part, arrays: Mapping[str, Array]) -> None:
        """Take the rows of a part; the last part completes the job."""
        self._left -= 1
        if len(self.prepared.parts) == 1:
            self._results.update(arrays)
        else:
            for name, array in arrays.items():
                self._scatter(name, part.rows, array)
        if self._left == 0 and not self.future.done():
            self.future.set_result(self._results)

    def fail(self, error: DeepseekError) -> None:
        """One part failed, so the request fails."""
        if not self.future.done():
            self.future.set_exception(error)

    def _scatter(self, name: str, rows: tuple[int, ...], array: Array) -> None:
        whole = self._results.get(name)
        if whole is None:
            shape = (self.prepared.rows, *array.shape[1:])
            whole = self._results[name] = np.empty(shape, dtype=array.dtype)
        whole[list(rows)] = array


@dataclass(slots=True, eq=False)
class PartWork:
    """A part in the queue."""

    job: Job
    part: Part
