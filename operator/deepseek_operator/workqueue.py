"""A keyed queue: many reasons to look at a pipeline become one look.

Why it exists: a reconcile depends on what is, not on what changed, so events only name a key. A
key that is added again while it waits is still one run; while it runs, one more run follows; two
runs of one key never overlap. What a person asked for goes before what the cluster reports, which
must not wait for ever either. `WorkQueue` is the bookkeeping, without tasks and with an injected
clock; `run_workers` drives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Outcome", "QueueSettings", "WorkQueue", "run_workers"]

Key = tuple[str, str]
_LONGEST_WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """Times of a queue, seconds."""

    debounce_s: float = 0.15
    """Least time between the end of one run of a key and the start of its next one."""
    backoff_s: float = 1.0
    """Wait after a first failure; it doubles with each one."""
    backoff_limit_s: float = 300.0
    """Longest wait after a failure."""
    jitter: float = 0.2
    """Waits after failures are longer or shorter by up to this share."""
    head_start_s: float = 30.0
    """An urgent key goes before others that became due up to so much earlier; with those that have
    waited longer it takes turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    failed: bool = False
    """Whether to try again with a growing wait."""
    requeue_after_s: float | None = None
    """Run again after this many seconds."""
    hold_s: float | None = None
    """Do not run before this many seconds have passed, whatever happens."""


class WorkQueue:
    """Keys that wait, and keys that run.

    Args:
        clock: monotonic seconds.
        settings: times.
        rng: where jitter comes from.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        settings: QueueSettings | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._settings = settings or QueueSettings()
        self._rng = rng or random.SystemRandom()
        self._due: dict[Key, float] = {}
        self._urgent: set[Key] = set()
        # Entries whose time or urgency differs from `_due` and `_urgent` are skipped.
        self._urgent_heap: list[tuple[float, Key]] = []
        self._heap: list[tuple[float, Key]] = []
        self._busy: dict[Key, float] = {}
        self._again: dict[Key, float] = {}
        self._urgent_again: set[Key] = set()
        self._last_was_urgent = False
        self._failures: dict[Key, int] = {}
        self._not_before: dict[Key, float] = {}
        self._moved = clock()
        self._wake = asyncio.Event()

    def add(self, key: Key, *, after_s: float = 0.0, urgent: bool = False) -> None:
        """Ask for a run of this key, at the latest after so many seconds.

        Args:
            key: what to run.
            after_s: seconds.
            urgent: whether it goes before keys that are not.
        """
        due = self._clock() + after_s
        if key in self._busy:
            self._again[key] = min(due, self._again.get(key, due))
            if urgent:
                self._urgent_again.add(key)
            return
        due = min(max(due, self._not_before.get(key, due)), self._due.get(key, float("inf")))
        urgent = urgent or key in self._urgent
        if due == self._due.get(key) and urgent == (key in self._urgent):
            return
        if not self._due and not self._busy:
            self._moved = max(self._moved, due)
        self._due[key] = due
        if urgent:
            self._urgent.add(key)
        heapq.heappush(self._urgent_heap if urgent else self._heap, (due, key))
        self._wake.set()

    def take(self) -> Key | None:
        """A key whose time has come, which now counts as running; None: there is none."""
        now = self._clock()
        self._drop_stale()
        heap = self._first(now)
        if not heap or heap[0][0] > now:
            return None
        due, key = heapq.heappop(heap)
        del self._due[key]
        self._last_was_urgent = heap is self._urgent_heap
        self._urgent.discard(key)
        self._not_before.pop(key, None)
        self._busy[key] = due
        return key

    def finish(self, key: Key, outcome: Outcome) -> None:
        """The run of a taken key is over."""
        now = self._clock()
        del self._busy[key]
        self._moved = now
        waits = [self._again.pop(key) - now] if key in self._again else []
        urgent = key in self._urgent_again
        self._urgent_again.discard(key)
        if outcome.requeue_after_s is not None:
            waits.append(outcome.requeue_after_s)
        if outcome.failed:
            waits.append(self._next_backoff(key))
        else:
            self._failures.pop(key, None)
        self._not_before[key] = now + max(self._settings.debounce_s, outcome.hold_s or 0.0)
        if waits:
            self.add(key, after_s=max(min(waits), 0.0), urgent=urgent)
        elif len(self._not_before) > 10_000:
            self._not_before = {k: t for k, t in self._not_before.items() if t > now}
        self._wake.set()

    def next_due(self) -> float | None:
        """When the next waiting key is due; None: nothing waits."""
        self._drop_stale()
        return min((heap[0][0] for heap in (self._urgent_heap, self._heap) if heap), default=None)

    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        now = self._clock()
        return sum(due <= now for due in self._due.values())

    def busy(self) -> int:
        """Keys that run."""
        return len(self._busy)

    def oldest_age(self) -> float:
        """How long the oldest key that is due has waited for the end of its run, seconds."""
        now = self._clock()
        oldest = min((*self._due.values(), *self._busy.values()), default=now)
        return max(now - oldest, 0.0)

    def stalled_for(self) -> float:
        """How long nothing has been finished although something is due, seconds.

        A long queue that moves is slow, not stuck.
        """
        now = self._clock()
        if not self._busy and not any(due <= now for due in self._due.values()):
            return 0.0
        return max(min(now - self._moved, self.oldest_age()), 0.0)

    async def wait(self) -> None:
        """Wait until `take` or the number of running keys may give another answer."""
        due = self.next_due()
        wait = _LONGEST_WAIT_S if due is None else min(due - self._clock(), _LONGEST_WAIT_S)
        if wait > 0:
            # Not wait_for, which loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()
        self._wake.clear()

    async def wait_for_room(self, limit: int) -> None:
        """Wait until fewer keys than this run."""
        while len(self._busy) >= limit:
            await self._wake.wait()
            self._wake.clear()

    def _next_backoff(self, key: Key) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        settings = self._settings
        wait = min(settings.backoff_s * 2.0 ** min(failures, 30), settings.backoff_limit_s)
        return wait * (1 + self._rng.uniform(-settings.jitter, settings.jitter))

    def _first(self, now: float) -> list[tuple[float, Key]]:
        """The heap whose first key is taken next."""
        urgent, others = self._urgent_heap, self._heap
        if not urgent or urgent[0][0] > now:
            return others
        overdue = others and others[0][0] < urgent[0][0] - self._settings.head_start_s
        # Not all that are overdue come first: a storm leaves hundreds of them behind.
        return others if overdue and self._last_was_urgent else urgent

    def _drop_stale(self) -> None:
        for heap, urgent in ((self._urgent_heap, True), (self._heap, False)):
            while heap and not self._is_current(heap[0], urgent=urgent):
                heapq.heappop(heap)

    def _is_current(self, entry: tuple[float, Key], *, urgent: bool) -> bool:
        due, key = entry
        return self._due.get(key) == due and (key in self._urgent) == urgent


async def run_workers(
    queue: WorkQueue, work: Callable[[Key], Awaitable[Outcome]], *, concurrency: int
) -> None:
    """Run what is due until cancelled; then the runs in progress are cancelled, too.

    Args:
        queue: what is due.
        work: one run of a key; it must not raise.
        concurrency: most runs at the same time.
    """

    async def one(key: Key) -> None:
        outcome = Outcome(failed=True)
        try:
            outcome = await work(key)
        finally:
            queue.finish(key, outcome)

    async with asyncio.TaskGroup() as group:
        while True:
            await queue.wait_for_room(concurrency)
            if key := queue.take():
                group.create_task(one(key), name=f"reconcile {key[0]}/{key[1]}")
            else:
                await queue.wait()
