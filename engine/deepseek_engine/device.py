"""One device: whose work runs next, on the one thread that may run it.

Why it exists: a device runs one batch or one step at a time, and every choice between models is
made here, in the event loop, just before the work starts. The thread only computes. It knows models
as lanes that offer units of work; what a unit is, is the lane's business.

A lone request pays for every turn of the loop and every wake-up of a thread between its arrival and
its answer, so that this is callbacks and not a task: the loop is told of a unit's end once, and
puts the answers out in the same turn in which it starts the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from deepseek_api.errors import EngineUnavailableError

from deepseek_engine.device_thread import DeviceThread
from deepseek_engine.fairness import FairQueue
from deepseek_engine.lanes import Lane
from deepseek_engine.load import LoadMeter

__all__ = ["Device"]

logger = logging.getLogger(__name__)

R = TypeVar("R")

_LOOK_AGAIN_S = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A unit of work on the device's thread."""

    lane: Lane
    unit: Any
    started: float


class Device:
    """Runs the work of several models one after the other, by weight."""

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
        """When the running unit started; None while idle."""

    def add(self, lane: Lane, *, weight: float) -> None:
        """Let a model share the device."""
        self._lanes[lane.name] = lane
        self._fair.set_weight(lane.name, weight)

    def start(self) -> None:
        """Begin to serve; call it from the event loop."""
        self._loop = asyncio.get_running_loop()

    def notify(self) -> None:
        """Say that a lane has changed."""
        # The end of a unit looks at the lanes anyway. Otherwise they are looked at in the next
        # turn, so that requests that come together share a batch.
        if self._running is None and not self._looks:
            self._looks = True
            self._loop.call_soon(self._look)

    async def call(self, function: Callable[[], R]) -> R:
        """Run a function on the device's thread, between units of work."""
        return await self._thread.call(function)

    def load(self) -> float:
        """Busy share of the last seconds, 0 to 1; the running unit counts until now."""
        return self._meter.load(self._clock(), since=self.busy_since)

    def refresh(self) -> None:
        """Let the models look at the load, also while none of them has work."""
        for lane in self._lanes.values():
            self._update(lane)

    async def close(self) -> None:
        """Stop; a unit that runs is not waited for, and its requests fail."""
        self._closed = True
        self._stop_timer()
        if self._running is not None:
            error = EngineUnavailableError("The engine is stopping.", hint="Try again elsewhere.")
            running = self._end(self._running)
            running.lane.fail(running.unit, error, seconds=0.0)
        self._thread.stop()

    def _look(self) -> None:
        """Start the next unit, or look again when one is due."""
        self._looks = False
        self._stop_timer()
        if self._running is not None or self._closed:
            return
        now = self._clock()
        times = {name: lane.release_at(now) for name, lane in self._lanes.items()}
        waiting = [at for at in times.values() if at is not None]
        ready = [name for name, at in times.items() if at is not None and at <= now]
        while ready:
            name = self._fair.choose(ready)
            if self._begin(self._lanes[name]):
                return
            # It said that it had work and gave none: it is asked again, but never in a tight loop.
            ready.remove(name)
            waiting = [now + _LOOK_AGAIN_S, *(at for at in waiting if at > now)]
        if waiting:
            self._timer = self._loop.call_later(min(waiting) - now, self._look)
        else:
            self._fair.idle()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _update(self, lane: Lane) -> None:
        if lane.adapts:
            now = self._clock()
            own = self._meter.load(now, flow=lane.name)
            lane.update(load=self.load(), own=own, now=now)

    def _begin(self, lane: Lane) -> bool:
        self._update(lane)
        started = self._clock()
        unit = lane.begin(started)
        if unit is None:
            return False
        running = self._running = _Running(lane, unit, started)
        self.busy_since = started
        self._thread.run(lambda: self._compute(running))
        return True

    def _compute(self, running: _Running) -> None:
        """On the device's thread: compute a unit, and tell the loop."""
        error: Exception | None = None
        result = None
        # Whatever happens here, the loop must go on serving.
        try:
            result = running.lane.compute(running.unit)
        except Exception as raised:
            logger.exception("a unit of work failed", extra={"model": running.lane.name})
            error = raised
        # A loop that is closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._finish, running, result, error)

    def _finish(self, running: _Running, result: Any, error: Exception | None) -> None:
        if running is not self._running:
            return  # The device was closed meanwhile, and the requests have failed.
        lane = self._end(running).lane
        seconds = self._clock() - running.started
        self._meter.busy(lane.name, running.started, running.started + seconds)
        self._fair.charge(lane.name, seconds)
        lane.stats.device_seconds += seconds
        try:
            if error is None:
                lane.finish(running.unit, result, seconds=seconds)
            else:
                lane.fail(running.unit, error, seconds=seconds)
        finally:
            self._look()

    def _end(self, running: _Running) -> _Running:
        self._running = self.busy_since = None
        return running
