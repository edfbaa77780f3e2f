"""Sends generated answers to a front end: not too often, and never more than it reads.

Why it exists: a message a token costs a front end about 50 microseconds of its one core, which a
few dozen answers at once would use up (measured: 8 tokens a message are 5.7 times cheaper a token).
So the first tokens leave at once, and later ones together, the rarer the more answers run. A front
end says which chunks were read; until then what is generated waits in the engine, merged into one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from deepseek_engine.generation.requests import GenerationChunk

__all__ = ["Sender", "pause_s"]

_WINDOW = 2
"""Chunks that may be on their way unread; one would cost a round trip after each."""
_PAUSE_PER_STREAM_S = 0.0005
"""At 50 microseconds a message this leaves nine tenths of the front end's core for other work."""
_FREE_STREAMS = 4
_MAX_PAUSE_S = 0.02


def pause_s(streams: int) -> float:
    """Least seconds between two chunks of an answer while so many answers are sent."""
    return 0.0 if streams <= _FREE_STREAMS else min(_MAX_PAUSE_S, streams * _PAUSE_PER_STREAM_S)


class Sender:
    """Sends one answer."""

    def __init__(
        self, send: Callable[[GenerationChunk], None], *, streams: Callable[[], int]
    ) -> None:
        """Prepare.

        Args:
            send: sends a chunk without waiting.
            streams: how many answers are sent at present.
        """
        self._send = send
        self._streams = streams
        self._unread = 0
        self._taken = asyncio.Event()

    def taken(self) -> None:
        """The front end has read a chunk."""
        self._unread = max(0, self._unread - 1)
        self._taken.set()

    async def run(self, chunks: AsyncGenerator[GenerationChunk, None]) -> None:
        """Send an answer to its end.

        Args:
            chunks: merges what is not taken from it yet.

        Raises:
            Exception: what the answer failed with.
        """
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                self._unread += 1
                self._send(chunk)
                if chunk.finish_reason is not None:
                    return
                while self._unread >= _WINDOW:
                    self._taken.clear()
                    await self._taken.wait()
                await asyncio.sleep(pause_s(self._streams()))
