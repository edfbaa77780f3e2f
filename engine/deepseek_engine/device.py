"""One device: whose batch runs next, on the one thread that may run it.

Why it exists: a device runs one batch at a time, and every choice between models is made here, in
the event loop, just before the batch starts. The thread only computes. It knows models as flows
with queues; what a request means is the tasks' business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deepseek_api.errors import DeepseekError, EngineUnavailableError

from deepseek_engine.batching import Batch
from deepseek_engine.execution import Outcome, run_parts
from deepseek_engine.fairness import FairQueue
from deepseek_engine.jobs import PartWork
from deepseek_engine.lanes import Lane
from deepseek_engine.load import LoadMeter
from deepseek_engine.loading import Loaded

__all__ = ["Device"]

logger = logging.getLogger(__name__)

R = TypeVar("R")


class Device:
    """Runs batches of several models one after the other, by weight."""

    def __init__(
        self, name: str, *, clock: Callable[[], float], load_window_s: float = 5.0
    ) -> None:
        """Make the device's thread; `start` begins to serve.

        Args:
            name: for example ``cpu``.
            clock: monotonic seconds.
            load_window_s: over how long the load is taken.
        """
        self._clock = clock
        self._meter = LoadMeter(load_window_s)
        self._fair = FairQueue()
        self._lanes: dict[str, Lane] = {}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"device-{name}")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.busy_since: float | None = None
        """When the running batch started; None while idle."""

    def add(self, lane: Lane, *, weight: float) -> None:
        """Let a model share the device."""
        self._lanes[lane.name] = lane
        self._fair.set_weight(lane.name, weight)

    def start(self) -> None:
        """Begin to serve; call it from the event loop."""
        self._task = asyncio.create_task(self._serve(), name="device")

    def notify(self) -> None:
        """Say that a queue has changed."""
        self._wake.set()

    async def call(self, function: Callable[[], R]) -> R:
        """Run a function on the device's thread, between batches."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    def load(self) -> float:
        """Busy share of the last seconds, 0 to 1; the running batch counts until now."""
        return self._meter.load(self._clock(), since=self.busy_since)

    def refresh(self) -> None:
        """Let the models look at the load, also while none of them has a batch."""
        for lane in self._lanes.values():
            self._update(lane)

    async def close(self) -> None:
        """Stop; a batch that runs is not waited for, and its requests fail."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        while True:
            now = self._clock()
            times = {name: lane.queue.release_at(now) for name, lane in self._lanes.items()}
            waiting = [at for at in times.values() if at is not None]
            ready = [name for name, at in times.items() if at is not None and at <= now]
            if ready:
                lane = self._lanes[self._fair.choose(ready)]
                await self._run(lane, lane.queue.next_batch(now))
                continue
            if not waiting:
                self._fair.idle()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(waiting) - now if waiting else None):
                    await self._wake.wait()

    def _update(self, lane: Lane) -> None:
        if lane.twin is not None:
            now = self._clock()
            own = self._meter.load(now, flow=lane.name)
            lane.update(load=self.load(), own=own, now=now)

    async def _run(self, lane: Lane, batch: Batch[PartWork]) -> None:
        started = self._clock()
        self._update(lane)
        loaded = lane.serving
        self.busy_since = started
        lane.stats.running += batch.rows
        for item in batch.items:
            lane.stats.waiting -= item.payload.job.begin(started, loaded.info)
        try:
            outcomes = await self.call(lambda: _execute(loaded, batch))
        except asyncio.CancelledError:
            error = EngineUnavailableError("The engine is stopping.", hint="Try again elsewhere.")
            for item in batch.items:
                item.payload.job.fail(error)
            raise
        # Whatever happens in the thread, this loop must go on serving.
        except Exception:
            logger.exception("a batch failed outside the model")
            outcomes = [_internal() for _ in batch.items]
        finally:
            self.busy_since = None
            lane.stats.running -= batch.rows
        seconds = self._clock() - started
        self._meter.busy(lane.name, started, started + seconds)
        self._account(lane, batch, loaded, seconds=seconds)
        _deliver(batch, outcomes, seconds=seconds)

    def _account(
        self, lane: Lane, batch: Batch[PartWork], loaded: Loaded, *, seconds: float
    ) -> None:
        self._fair.charge(lane.name, seconds)
        lane.queue.latency.observe(batch.bucket, rows=batch.rows, seconds=seconds)
        stats, release = lane.stats, str(batch.release)
        stats.device_seconds += seconds
        stats.batches += 1
        stats.rows += batch.rows
        stats.releases[release] = stats.releases.get(release, 0) + 1
        lane.observe(loaded, rows=batch.rows, seconds=seconds)
        stats.batch_rows[batch.rows] = stats.batch_rows.get(batch.rows, 0) + 1


def _execute(loaded: Loaded, batch: Batch[PartWork]) -> list[Outcome]:
    parts = [item.payload.part for item in batch.items]
    # Requests of a batch may want different outputs; the graph computes what any of them wants.
    wanted = dict.fromkeys(
        name for item in batch.items for name in item.payload.job.prepared.graph_outputs
    )
    return run_parts(loaded.backend, loaded.task, parts, outputs=list(wanted))


def _deliver(batch: Batch[PartWork], outcomes: list[Outcome], *, seconds: float) -> None:
    rows = batch.rows
    for item, outcome in zip(batch.items, outcomes, strict=True):
        job = item.payload.job
        job.compute_s += seconds
        job.batch_rows = max(job.batch_rows, rows)
        if isinstance(outcome, DeepseekError):
            job.fail(outcome)
            continue
        # Rows that do not fit together are one request's trouble: this loop must go on serving.
        try:
            job.add(item.payload.part, outcome)
        except Exception:
            logger.exception("the rows of a request cannot be put together")
            job.fail(_internal())


def _internal() -> DeepseekError:
    return DeepseekError(
        "The model failed to compute this request.", hint="The log of the engine has the cause."
    )
