"""Which requests run together, and when.

Why it exists: a batch uses a device better than single requests, and waiting for one is a tax on
whoever came first. A queue holds the work of one model, ordered by priority and then by the time
at which it is due. It lets a batch go when the batch is full, when its oldest request can wait no
longer, or when nothing more is expected in time; without a latency target it never waits. Rows are
counted, not requests. This module is pure: callers pass the time in.
"""

from __future__ import annotations

import bisect
import enum
import itertools
from collections.abc import Generator, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from deepseek_engine.latency import LatencyModel

__all__ = ["Batch", "BatchQueue", "Release", "Work", "dynamic_batching"]

T = TypeVar("T")

_LAST_PRIORITY = 1 << 40
_ARRIVAL_MEMORY = 0.8


class Release(enum.StrEnum):
    """Why a batch was let go."""

    FULL = "full"
    """No more rows fit."""
    SLACK = "slack"
    """Its oldest request can wait no longer."""
    IDLE = "idle"
    """The device is free and nothing is worth waiting for."""


@dataclass(slots=True, eq=False)
class Work(Generic[T]):
    """Rows that stay together."""

    rows: int
    bucket: Hashable
    arrival: float
    """Seconds on the caller's clock."""
    payload: T
    deadline: float | None = None
    priority: int = 0
    order: tuple[float, float, int] = field(default=(0, 0, 0), init=False)


@dataclass(slots=True, eq=False)
class Batch(Generic[T]):
    """Work that runs together."""

    items: list[Work[T]]
    release: Release

    @property
    def rows(self) -> int:
        """Rows of all items."""
        return sum(item.rows for item in self.items)

    @property
    def bucket(self) -> Hashable:
        """The bucket that all items share."""
        return self.items[0].bucket


class BatchQueue(Generic[T]):
    """The waiting work of one model."""

    def __init__(
        self,
        *,
        max_batch_size: int = 32,
        latency_target_s: float | None = None,
        latency: LatencyModel | None = None,
    ) -> None:
        """Make an empty queue.

        Args:
            max_batch_size: rows of a batch; work with more rows runs alone.
            latency_target_s: how long an answer may take; None never waits for more rows.
            latency: what is known about the time that batches take.
        """
        self._max = max_batch_size
        self._target = latency_target_s
        self.latency = latency or LatencyModel()
        self._items: list[Work[T]] = []
        self._keys: list[tuple[float, float, int]] = []
        self._sequence = itertools.count()
        self._rows = 0
        self._last_arrival: float | None = None
        self._gap: float | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    def limit(self, max_batch_size: int) -> None:
        """Make batches no larger than this from now on; never larger than before."""
        self._max = min(self._max, max_batch_size)

    def add(self, work: Work[T]) -> None:
        """Put work into the queue."""
        due = work.arrival + self._target if self._target is not None else work.arrival
        if work.deadline is not None:
            due = min(due, work.deadline)
        work.order = (work.priority or _LAST_PRIORITY, due, next(self._sequence))
        index = bisect.bisect(self._keys, work.order)
        self._items.insert(index, work)
        self._keys.insert(index, work.order)
        self._rows += work.rows
        self._learn_arrival(work)

    def remove(self, work: Work[T]) -> bool:
        """Take work out, because it was cancelled or expired; False when it is not here."""
        index = bisect.bisect_left(self._keys, work.order)
        if index >= len(self._items) or self._items[index] is not work:
            return False
        self._take(index)
        return True

    def clear(self) -> list[Work[T]]:
        """Take everything out."""
        items = self._items
        self._items, self._keys, self._rows = [], [], 0
        return items

    def release_at(self, now: float) -> float | None:
        """When the next batch should start; at or before ``now`` means at once, None: no work."""
        if not self._items:
            return None
        if self._target is None:
            return now
        items, reason = self._form(now)
        if reason is not None:
            return now
        start = self._latest_start(items)
        return start if self._worth_waiting(now, start) else now

    def next_batch(self, now: float) -> Batch[T]:
        """Take the next batch out.

        Raises:
            IndexError: nothing waits.
        """
        if not self._items:
            raise IndexError("no work waits")
        items, reason = self._form(now)
        if reason is None:
            late = self._target is not None and self._latest_start(items) <= now
            reason = Release.SLACK if late else Release.IDLE
        for item in items:
            self.remove(item)
        return Batch(items, reason)

    def _latest_start(self, items: list[Work[T]]) -> float:
        """When a batch must start so that the earliest due time of all that wait is met."""
        rows = sum(item.rows for item in items)
        # Of all, not of the batch: priority may have put later work first.
        due = min(item.order[1] for item in self._items)
        return due - self.latency.predict(items[0].bucket, rows)

    def _form(self, now: float) -> tuple[list[Work[T]], Release | None]:
        """The next batch, and why it should not wait for more; None when it may."""
        head = self._items[0]
        most = self._cap(head, now)
        # More rows than this would be too many, or would take too long.
        limit = Release.FULL if most == self._max else Release.SLACK
        items, rows = [head], head.rows
        for item in self._items[1:]:
            if rows >= most:
                break
            if item.bucket != head.bucket:
                continue
            if rows + item.rows > most:
                # Smaller work behind it may still fit, but the batch need not wait for more.
                return [*items, *self._fill(item, head, most - rows)], limit
            items.append(item)
            rows += item.rows
        return items, limit if rows >= most else None

    def _fill(self, after: Work[T], head: Work[T], room: int) -> list[Work[T]]:
        found = []
        for item in self._items[bisect.bisect(self._keys, after.order) :]:
            if item.bucket == head.bucket and item.rows <= room:
                found.append(item)
                room -= item.rows
        return found

    def _cap(self, head: Work[T], now: float) -> int:
        """Rows of a batch: as many as still answer its head in time."""
        if self._target is None:
            return self._max
        left = head.order[1] - now
        if left <= 0:
            # It is late already: large batches clear the queue fastest.
            return self._max
        return self.latency.largest(head.bucket, within_s=left, most=self._max)

    def _learn_arrival(self, work: Work[T]) -> None:
        if self._last_arrival is not None:
            gap = max(0.0, work.arrival - self._last_arrival) / work.rows
            previous = gap if self._gap is None else self._gap
            self._gap = _ARRIVAL_MEMORY * previous + (1 - _ARRIVAL_MEMORY) * gap
        self._last_arrival = work.arrival

    def _worth_waiting(self, now: float, until: float) -> bool:
        """Whether at least one more row is expected before ``until``."""
        if until <= now or self._gap is None or self._last_arrival is None:
            return False
        # A silence that is longer than the usual gap is evidence that the stream has ended.
        gap = max(self._gap, now - self._last_arrival)
        return until - now >= gap

    def _take(self, index: int) -> None:
        self._rows -= self._items[index].rows
        del self._items[index]
        del self._keys[index]


def dynamic_batching(
    requests: Iterable[Any], max_batch_size: int = 32
) -> Generator[list[Any], None, None]:
    """Cut requests into batches, in order.

    Args:
        requests: any values; taken as they are needed, so that they may be endless.
        max_batch_size: values in a batch; the last one may have fewer.

    Raises:
        ValueError: ``max_batch_size`` is below 1.
    """
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size must be at least 1, not {max_batch_size}")
    iterator = iter(requests)
    while batch := list(itertools.islice(iterator, max_batch_size)):
        yield batch
