"""How long will a batch take? An estimate that learns while serving.

Why it exists: a batch may wait for more rows only as long as its oldest request can afford, and
that depends on how long the batch will take. Time grows nearly linearly with rows, so that two
numbers a shape are enough. This module knows no clock.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["LatencyModel"]

_FORGET = 0.95
_MARGIN_DEVIATIONS = 2.5
_MAX_BUCKETS = 64


@dataclass(slots=True)
class _Line:
    """Least squares over (rows, seconds) with exponential forgetting."""

    weight: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    rows_squared: float = 0.0
    product: float = 0.0
    deviation: float = 0.0

    def add(self, rows: int, seconds: float) -> None:
        if self.weight:
            error = abs(seconds - self.predict(rows))
            self.deviation += (1 - _FORGET) * (error - self.deviation)
        self.weight = self.weight * _FORGET + 1
        self.rows = self.rows * _FORGET + rows
        self.seconds = self.seconds * _FORGET + seconds
        self.rows_squared = self.rows_squared * _FORGET + rows * rows
        self.product = self.product * _FORGET + rows * seconds

    def predict(self, rows: int) -> float:
        mean_rows = self.rows / self.weight
        mean = self.seconds / self.weight
        spread = self.rows_squared / self.weight - mean_rows**2
        if spread < 1e-6:
            # Only one size was seen so far: time in proportion for more rows, the same for fewer.
            return mean * max(1.0, rows / mean_rows)
        slope = max(0.0, (self.product / self.weight - mean_rows * mean) / spread)
        return max(0.0, mean + slope * (rows - mean_rows))


class LatencyModel:
    """``seconds = a + b * rows`` for each bucket of shapes."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}

    def observe(self, bucket: Hashable, *, rows: int, seconds: float) -> None:
        """Learn from a batch that ran."""
        line = self._lines.get(bucket)
        if line is None:
            if len(self._lines) >= _MAX_BUCKETS:
                self._lines.pop(next(iter(self._lines)))
            line = self._lines[bucket] = _Line()
        line.add(rows, seconds)

    def predict(self, bucket: Hashable, rows: int) -> float:
        """Seconds that a batch takes, on the safe side; 0 while nothing is known."""
        line = self._lines.get(bucket)
        if line is None:
            return 0.0
        return line.predict(rows) + _MARGIN_DEVIATIONS * line.deviation

    def largest(self, bucket: Hashable, *, within_s: float, most: int) -> int:
        """The most rows whose batch is expected to take at most ``within_s``; at least 1."""
        low, high = 1, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.predict(bucket, middle) <= within_s:
                low = middle
            else:
                high = middle - 1
        return low
