"""Counts running requests and knows when a worker stops taking more.

Why it exists: a stop is graceful only if it waits for what runs. It knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

__all__ = ["Drain"]


class Drain:
    """Running requests of one worker."""

    def __init__(self) -> None:
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._started = False

    @property
    def started(self) -> bool:
        """Whether new requests are refused."""
        return self._started

    @property
    def count(self) -> int:
        """Requests that run."""
        return self._running

    def start(self) -> None:
        """Take no more requests."""
        self._started = True

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count one request while the block runs."""
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs; False when the time is over before."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
