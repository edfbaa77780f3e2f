"""What is noted of every request, whatever protocol it came by.

Why it exists: metrics, the statistics of the protocol, the access log and the drain must count the
same things for every service. It knows no messages of a protocol, and never a request's content.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deepseek_api.errors import DeepseekError, EngineUnavailableError
from deepseek_engine.client import GenerationChunk, ModelInfo, Timing

from deepseek_worker.drain import Drain
from deepseek_worker.fleet import Fleet
from deepseek_worker.metrics import Metrics
from deepseek_worker.statistics import Statistics

__all__ = ["Call", "Ledger"]

logger = logging.getLogger(__name__)


class Call:
    """One request."""

    __slots__ = ("_last_chunk", "code", "info", "metrics", "model", "reason", "rows", "started",
                 "timing")  # fmt: skip

    def __init__(self, model: str, metrics: Metrics) -> None:
        self.model = model
        self.metrics = metrics
        self.started = time.monotonic()
        """Monotonic seconds."""
        self.code = "OK"
        self.reason = ""
        self.rows = 1
        self.info: ModelInfo | None = None
        self.timing: Timing | None = None
        """Where the time went; None until it is answered."""
        self._last_chunk: float | None = None

    def outcome(self, code: str, reason: str = "") -> None:
        """It ended otherwise than with an answer."""
        self.code, self.reason = code, reason
        self.timing = None

    def generated(self, chunk: GenerationChunk) -> None:
        """A part of a generated answer came."""
        now = time.monotonic()
        tokens = len(chunk.token_ids)
        if tokens:
            if self._last_chunk is None:
                self.metrics.first_token(self.model, now - self.started)
                tokens -= 1
            else:
                self.metrics.between_tokens(self.model, now - self._last_chunk, tokens)
            self._last_chunk = now
        if chunk.usage is not None:
            usage = chunk.usage
            self.timing = Timing(0.0, usage.queue_ms, usage.total_ms - usage.queue_ms, 0.0, 1)


class Ledger:
    """Counts the requests of a worker."""

    def __init__(
        self, *, fleet: Fleet, drain: Drain, metrics: Metrics, statistics: Statistics
    ) -> None:
        self._fleet = fleet
        self._drain = drain
        self._metrics = metrics
        self._statistics = statistics

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._drain.started

    @contextmanager
    def call(self, model: str, *, expired: Callable[[], bool]) -> Iterator[Call]:
        """Count one request while the block answers it.

        Args:
            model: as the client wrote it.
            expired: says, when the block is cancelled, whether that was the client's deadline.

        Raises:
            EngineUnavailableError: the worker is shutting down.
        """
        if self._drain.started:
            raise EngineUnavailableError(
                "The worker is shutting down.", hint="Send the request to another worker."
            )
        name = model if model in self._fleet.names else ""
        call = Call(name, self._metrics)
        try:
            with self._drain.running(), self._metrics.running.labels(name).track_inprogress():
                yield call
        except DeepseekError as error:
            call.outcome(error.code.value, error.reason)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            call.outcome("DEADLINE_EXCEEDED" if expired() else "CANCELLED")
            raise
        except Exception:
            call.outcome("INTERNAL", "Unexpected")
            raise
        finally:
            self._count(call)

    def _count(self, call: Call) -> None:
        seconds = time.monotonic() - call.started
        precision = call.info.precision if call.info else ""
        if logger.isEnabledFor(logging.DEBUG):
            facts = {"model": call.model, "code": call.code, "reason": call.reason}
            logger.debug("request", extra={**facts, "ms": round(seconds * 1000, 3)})
        self._metrics.answered(call.model, precision, call.code, call.reason)
        if call.info is None:
            return
        series = self._metrics.series(call.model, precision)
        series.duration.observe(seconds)
        if call.timing is None:
            self._statistics.failed(call.model, seconds=seconds)
            return
        series.queue.observe(call.timing.queue_ms / 1000)
        series.compute.observe(call.timing.compute_ms / 1000)
        self._statistics.succeeded(
            call.model,
            seconds=seconds,
            timing=call.timing,
            rows=call.rows,
            at_ms=int(time.time() * 1000),
        )
