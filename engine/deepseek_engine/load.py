"""How busy is a device? The share of a sliding window in which it computed, by model.

Why it exists: whether a model may run at its higher precision is decided by what the device has
done lately, not by the length of a queue at one moment. Time is kept in slots of the window, so
that the memory is bounded whatever the number of batches. This module knows no clock: callers pass
the time in.
"""

from __future__ import annotations

from collections import defaultdict

__all__ = ["LoadMeter"]

_SLOTS = 50


class LoadMeter:
    """Busy seconds of the last ``window_s`` seconds, by the flow that they were spent on."""

    def __init__(self, window_s: float) -> None:
        """Make a meter that has seen nothing.

        Args:
            window_s: length of the window, seconds.

        Raises:
            ValueError: the window is not above zero.
        """
        if not window_s > 0:
            raise ValueError(f"window_s must be above zero, not {window_s}")
        self._slot_s = window_s / _SLOTS
        self._slots: dict[int, dict[str, float]] = {}

    def busy(self, flow: str, start: float, end: float) -> None:
        """Note that the device computed for a flow from ``start`` to ``end``."""
        last = int(end // self._slot_s)
        # What lies before the window cannot count any more, however long the batch took.
        first = max(int(start // self._slot_s), last - _SLOTS)
        for slot in range(first, last + 1):
            low, high = slot * self._slot_s, (slot + 1) * self._slot_s
            part = max(0.0, min(end, high) - max(start, low))
            flows = self._slots.setdefault(slot, defaultdict(float))
            flows[flow] += part
        self._forget(last)

    def load(self, now: float, *, flow: str | None = None, since: float | None = None) -> float:
        """Busy share of the window that ends now, 0 to 1.

        A meter that is younger than its window counts the time before its first batch as idle.

        Args:
            now: seconds on the caller's clock.
            flow: only the time of this flow; None counts all.
            since: when a batch that still runs has started; it counts until now.
        """
        current = now // self._slot_s
        oldest = int(current) - _SLOTS
        # The window begins inside its oldest slot, which counts in proportion.
        share = 1.0 - (now / self._slot_s - current)
        total = 0.0
        for slot, flows in self._slots.items():
            if slot < oldest or slot > current:
                continue
            spent = sum(flows.values()) if flow is None else flows.get(flow, 0.0)
            total += spent * share if slot == oldest else spent
        window = _SLOTS * self._slot_s
        if since is not None:
            total += min(window, max(0.0, now - since))
        return min(1.0, total / window)

    def _forget(self, last: int) -> None:
        for slot in [slot for slot in self._slots if slot < last - _SLOTS]:
            del self._slots[slot]
