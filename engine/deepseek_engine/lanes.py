"""A model's place on its device, as the device and the engine see it.

Why it exists: a device shares its time between models that work in whole batches of requests and
models that generate step by step, and must not care which is which. Both offer a unit of work at a
time: it is taken in the event loop, computed on the device's thread, and accounted for in the loop
again. The two kinds are `deepseek_engine.batch_lane` and `deepseek_engine.generation.lane`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from deepseek_engine.generation.requests import GenerationChunk, GenerationRequest
from deepseek_engine.messages import InferenceRequest, InferenceResponse, ModelStats

__all__ = ["Lane"]


class Lane(Protocol):
    """One model of a device."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def stats(self) -> ModelStats:
        """Its counters; the device adds the time that it takes."""
        ...

    @property
    def adapts(self) -> bool:
        """Whether `update` has something to decide."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Estimated memory of all that is loaded for it."""
        ...

    def release_at(self, now: float) -> float | None:
        """When its next unit of work should start; at or before ``now``: at once, None: no work."""
        ...

    def begin(self, now: float) -> Any | None:
        """Take the next unit of work; None: there is none after all."""
        ...

    def compute(self, unit: Any) -> Any:
        """Compute a unit. On the device's thread; what it raises is given to `fail`."""
        ...

    def finish(self, unit: Any, result: Any, *, seconds: float) -> None:
        """Account for a computed unit and put its answers out.

        Args:
            unit: from `begin`.
            result: from `compute`.
            seconds: that the device spent on it.
        """
        ...

    def fail(self, unit: Any, error: Exception, *, seconds: float) -> None:
        """Account for a unit that was not computed: whoever waits for it gets an error."""
        ...

    def update(self, *, load: float, own: float, now: float) -> None:
        """Look at the load before the next unit.

        Args:
            load: busy share of the device.
            own: the part of it that this model took.
            now: seconds on the engine's clock.
        """
        ...

    async def infer(self, request: InferenceRequest, rows: int) -> InferenceResponse:
        """Answer a checked request of so many rows as a whole."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Answer a request in parts; see `EngineClient.generate`."""
        ...

    def stop(self) -> None:
        """Fail whatever still waits with UNAVAILABLE."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...
