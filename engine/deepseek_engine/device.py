"""One device: whose batch runs next, on the one thread that may run it.

Why it exists: a device runs one batch at a time, and every choice between models is made here, in
the event loop, just before the batch starts. The thread only computes. It knows models as flows
with queues; what a request means is the tasks' business.

A lone request pays for every turn of the loop and every wake-up of a thread between its arrival and
its answer, so that this is callbacks and not a task: the loop is told of a batch's end once, and
puts the answers out in the same turn in which it starts the next batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from deepseek_api.errors import DeepseekError, EngineUnavailableError

from deepseek_engine.batching import Batch
from deepseek_engine.device_thread import DeviceThread
from deepseek_engine.execution import Outcome, run_parts
from deepseek_engine.fairness import FairQueue
from deepseek_engine.jobs import PartWork
from deepseek_engine.lanes import Lane
from deepseek_engine.load import LoadMeter
from deepseek_engine.loading import Loaded

__all__ = ["Device"]

logger = logging.getLogger(__name__)

R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A batch on the device's thread."""

    lane: Lane
    loaded: Loaded
    batch: Batch[PartWork]
    started: float


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
        self._thread = DeviceThread(f"device-{name}")
        self._loop: asyncio.AbstractEventLoop
        self._running: _Running | None = None
        self._looks = False
        """Whether the loop's next turn looks at the queues."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.busy_since: float | None = None
        """When the running batch started; None while idle."""

    def add(self, lane: Lane, *, weight: float) -> None:
        """Let a model share the device."""
        self._lanes[lane.name] = lane
        self._fair.set_weight(lane.name, weight)

    def start(self) -> None:
        """Begin to serve; call it from the event loop."""
        self._loop = asyncio.get_running_loop()

    def notify(self) -> None:
        """Say that a queue has changed."""
        # The end of a batch looks at the queues anyway. Otherwise they are looked at in the next
        # turn, so that requests that come together share a batch.
        if self._running is None and not self._looks:
            self._looks = True
            self._loop.call_soon(self._look)

    async def call(self, function: Callable[[], R]) -> R:
        """Run a function on the device's thread, between batches."""
        return await self._thread.call(function)

    def load(self) -> float:
        """Busy share of the last seconds, 0 to 1; the running batch counts until now."""
        return self._meter.load(self._clock(), since=self.busy_since)

    def refresh(self) -> None:
        """Let the models look at the load, also while none of them has a batch."""
        for lane in self._lanes.values():
            self._update(lane)

    async def close(self) -> None:
        """Stop; a batch that runs is not waited for, and its requests fail."""
        self._closed = True
        self._stop_timer()
        if self._running is not None:
            error = EngineUnavailableError("The engine is stopping.", hint="Try again elsewhere.")
            for item in self._end(self._running).items:
                item.payload.job.fail(error)
        self._thread.stop()

    def _look(self) -> None:
        """Start the next batch, or look again when one is due."""
        self._looks = False
        self._stop_timer()
        if self._running is not None or self._closed:
            return
        now = self._clock()
        times = {name: lane.queue.release_at(now) for name, lane in self._lanes.items()}
        waiting = [at for at in times.values() if at is not None]
        ready = [name for name, at in times.items() if at is not None and at <= now]
        if ready:
            lane = self._lanes[self._fair.choose(ready)]
            self._begin(lane, lane.queue.next_batch(now))
        elif waiting:
            self._timer = self._loop.call_later(min(waiting) - now, self._look)
        else:
            self._fair.idle()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _update(self, lane: Lane) -> None:
        if lane.twin is not None:
            now = self._clock()
            own = self._meter.load(now, flow=lane.name)
            lane.update(load=self.load(), own=own, now=now)

    def _begin(self, lane: Lane, batch: Batch[PartWork]) -> None:
        started = self._clock()
        self._update(lane)
        running = self._running = _Running(lane, lane.serving, batch, started)
        self.busy_since = started
        lane.stats.running += batch.rows
        for item in batch.items:
            lane.stats.waiting -= item.payload.job.begin(started, running.loaded.info)
        self._thread.run(lambda: self._compute(running))

    def _compute(self, running: _Running) -> None:
        """On the device's thread: run a batch, and tell the loop."""
        # Whatever happens here, the loop must go on serving.
        try:
            outcomes = _execute(running.loaded, running.batch)
        except Exception:
            logger.exception("a batch failed outside the model")
            outcomes = [_internal() for _ in running.batch.items]
        # A loop that is closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._finish, running, outcomes)

    def _finish(self, running: _Running, outcomes: list[Outcome]) -> None:
        if running is not self._running:
            return  # The device was closed meanwhile, and the requests have failed.
        lane, batch = running.lane, self._end(running)
        seconds = self._clock() - running.started
        self._meter.busy(lane.name, running.started, running.started + seconds)
        self._account(lane, batch, running.loaded, seconds=seconds)
        _deliver(batch, outcomes, seconds=seconds)
        self._look()

    def _end(self, running: _Running) -> Batch[PartWork]:
        self._running = self.busy_since = None
        running.lane.stats.running -= running.batch.rows
        return running.batch

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
