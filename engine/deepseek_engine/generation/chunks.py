"""The part of an answer that was generated and not read yet.

Why it exists: a model must not wait for a slow reader, and a slow reader must not make memory grow
by a message a token. What is not read yet is therefore merged into one chunk, whose size is bounded
by the answer's own tokens. Both ends of the engine's socket and the engine itself use it. Use it
from one event loop only.
"""

from __future__ import annotations

import asyncio

from deepseek_engine.generation.requests import (
    FinishReason,
    GenerationChunk,
    GenerationUsage,
    TokenLogprob,
)

__all__ = ["ChunkBuffer"]


class ChunkBuffer:
    """Merges chunks until they are taken."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._finish: FinishReason | None = None
        self._matched_stop: str | int | None = None
        self._usage: GenerationUsage | None = None
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the last chunk or an error was put in."""
        return self._finish is not None or self._error is not None

    def put(self, chunk: GenerationChunk) -> None:
        """Append a chunk; nothing is taken after the end."""
        if self.ended:
            return
        self._tokens += chunk.token_ids
        if chunk.text:
            self._texts.append(chunk.text)
        self._logprobs += chunk.logprobs
        self._finish = chunk.finish_reason
        self._matched_stop = chunk.matched_stop
        self._usage = chunk.usage
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """End with an error; what waits is dropped, because it will not be continued."""
        if not self.ended:
            self._error = error
            self._changed.set()

    async def get(self) -> GenerationChunk:
        """Wait for something and take all of it.

        Raises:
            Exception: that `fail` was given.
        """
        await self._changed.wait()
        if self._error is not None:
            raise self._error
        chunk = GenerationChunk(
            token_ids=tuple(self._tokens),
            text="".join(self._texts),
            logprobs=tuple(self._logprobs),
            finish_reason=self._finish,
            matched_stop=self._matched_stop,
            usage=self._usage,
        )
        self._tokens, self._texts, self._logprobs = [], [], []
        self._changed.clear()
        return chunk
