"""A model that generates, as a lane of its device: a unit of work is one step of all its sequences.

Why it exists: it joins a `Generator` (which sequences, which tokens) to the device (whose turn it
is) and to the callers (who read at their own pace, go away, or run out of time). A sequence is
forgotten in the turn of the loop in which its caller goes; its blocks are free when the step that
runs is committed. Everything but `compute` runs in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from deepseek_api.errors import DeepseekError, ErrorCode, InferenceError

from deepseek_engine.admission import expired, stopping
from deepseek_engine.batch_lane import Surroundings
from deepseek_engine.generation import tensors
from deepseek_engine.generation.chunks import ChunkBuffer
from deepseek_engine.generation.interface import SequenceUpdate
from deepseek_engine.generation.loaded import LoadedGenerator
from deepseek_engine.generation.requests import GenerationChunk, GenerationRequest, GenerationUsage
from deepseek_engine.messages import InferenceRequest, InferenceResponse, ModelStats, Timing

__all__ = ["GenerationLane"]

logger = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")

_LONG_TEXT = 2048
"""Characters above which a prompt is tokenized on another thread: about a millisecond."""


@dataclass(slots=True, eq=False)
class _Stream:
    """One answer that is being generated."""

    sequence: int
    prompt_tokens: int
    arrival: float
    buffer: ChunkBuffer = field(default_factory=ChunkBuffer)
    tokens: int = 0
    first_token_at: float | None = None
    timer: asyncio.TimerHandle | None = None


class GenerationLane:
    """One loaded model that generates; a `Lane`."""

    adapts = False

    def __init__(
        self, name: str, loaded: LoadedGenerator, *, stats: ModelStats, around: Surroundings
    ) -> None:
        self.name = name
        self.stats = stats
        self._loaded = loaded
        self._generator = loaded.opened.generator
        self._around = around
        self._numbers = itertools.count(1)
        self._streams: dict[int, _Stream] = {}
        self._stopped = False
        stats.precision = loaded.info.precision
        self._count()

    @property
    def memory_bytes(self) -> int:
        """Estimated memory of weights and cache."""
        return self._loaded.info.memory_bytes

    def update(self, *, load: float, own: float, now: float) -> None:
        """Nothing to decide: such a model has one precision."""

    def release_at(self, now: float) -> float | None:
        """A step is due whenever there is something to compute: waiting would only delay tokens."""
        return now if self._generator.has_work() else None

    def begin(self, now: float) -> Any | None:
        """Plan a step."""
        try:
            plan = self._generator.plan()
        # A defect here would come again with every step, so that nobody may be left waiting.
        except Exception:
            logger.exception("no step can be planned", extra={"model": self.name})
            self._fail_all(_internal())
            plan = None
        self._count()
        return plan

    def compute(self, unit: Any) -> Any:
        """Compute a planned step on the device's thread."""
        return self._generator.run(unit)

    def finish(self, unit: Any, result: Any, *, seconds: float) -> None:
        """Commit a step and hand its tokens to their readers."""
        self.stats.batches += 1
        try:
            updates = self._generator.commit(unit, result)
        except Exception:
            logger.exception("a step cannot be committed", extra={"model": self.name})
            self._fail_all(_internal())
            updates = []
        self._tell(updates)

    def fail(self, unit: Any, error: Exception, *, seconds: float) -> None:
        """End the sequences of a step that was not computed; the others go on."""
        try:
            updates = self._generator.fail(unit, _shown(error))
        except Exception:
            logger.exception("a failed step cannot be undone", extra={"model": self.name})
            self._fail_all(_internal())
            updates = []
        self._tell(updates)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Answer in parts; see `EngineClient.generate`."""
        arrival = self._around.clock()
        prompt = await self._tokens(request)
        if request.sampling.constraint is not None:
            # May take a second, which the event loop does not have.
            await self._offload(self._generator.prepare, request)
        stream = self._add(request, prompt, arrival)
        try:
            while True:
                chunk = await stream.buffer.get()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self._forget(stream)

    async def infer(self, request: InferenceRequest, rows: int) -> InferenceResponse:
        """Answer as a whole."""
        chunks = []
        asked = tensors.generation_request(request, self._loaded.opened.info)
        async with contextlib.aclosing(self.generate(asked)) as parts:
            async for chunk in parts:
                chunks.append(chunk)
        answer, info = tensors.merged(chunks), self._loaded.info
        usage = answer.usage
        timing = Timing(0.0, 0.0, 0.0, 0.0, 1)
        if usage is not None:
            timing = Timing(0.0, usage.queue_ms, usage.total_ms - usage.queue_ms, 0.0, 1)
        return InferenceResponse(
            tensors.output_tensors(answer, request.outputs or info.default_outputs),
            info.variant,
            info.precision,
            info.random_weights,
            timing,
            parameters=tensors.outcome(answer),
        )

    def stop(self) -> None:
        """Fail all answers that are not complete."""
        self._stopped = True
        self._fail_all(stopping())

    def close(self) -> None:
        """Free weights and cache."""
        self._generator.close()

    async def _tokens(self, request: GenerationRequest) -> Sequence[int]:
        if not isinstance(request.prompt, str):
            return request.prompt
        encode = self._loaded.opened.encode
        if encode is None:
            raise InferenceError(
                f"The model '{self.name}' has no tokenizer, so that it takes no text.",
                code=ErrorCode.INVALID_ARGUMENT,
                hint="Send token numbers.",
                reason="NoTokenizer",
            )
        self.stats.waiting += 1
        try:
            if len(request.prompt) < _LONG_TEXT:
                return encode(request.prompt)
            return await self._offload(encode, request.prompt)
        finally:
            self._count()

    async def _offload(self, function: Callable[[A], R], argument: A) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._around.executor, function, argument)

    def _add(self, request: GenerationRequest, prompt: Sequence[int], arrival: float) -> _Stream:
        if self._stopped:
            raise stopping()
        if request.deadline is not None and request.deadline <= self._around.clock():
            raise expired()
        stream = _Stream(next(self._numbers), len(prompt), arrival)
        self._generator.add(stream.sequence, request, prompt)
        self._streams[stream.sequence] = stream
        if request.deadline is not None:
            loop = asyncio.get_running_loop()
            left = request.deadline - self._around.clock()
            stream.timer = loop.call_later(left, self._expire, stream)
        self._count()
        self._around.notify()
        return stream

    def _expire(self, stream: _Stream) -> None:
        stream.buffer.fail(expired())
        self._forget(stream)

    def _forget(self, stream: _Stream) -> None:
        """End an answer that nobody waits for any more; nothing happens to one that is complete."""
        if stream.timer is not None:
            stream.timer.cancel()
        if self._streams.pop(stream.sequence, None) is not None:
            self._generator.abort(stream.sequence)
            self._count()
            self._around.notify()

    def _tell(self, updates: Sequence[SequenceUpdate]) -> None:
        now = self._around.clock()
        for update in updates:
            stream = self._streams.get(update.sequence)
            if stream is None:
                continue
            if update.tokens and stream.first_token_at is None:
                stream.first_token_at = now
            stream.tokens += len(update.tokens)
            ended = update.finish is not None or update.error is not None
            if ended:
                del self._streams[update.sequence]
                self.stats.requests += update.error is None
                self.stats.rows += 1
                if stream.timer is not None:
                    stream.timer.cancel()
            if update.error is not None:
                stream.buffer.fail(_shown(update.error))
            else:
                stream.buffer.put(_chunk(update, stream, now))
        self._count()

    def _fail_all(self, error: DeepseekError) -> None:
        for stream in list(self._streams.values()):
            stream.buffer.fail(error)
            self._forget(stream)

    def _count(self) -> None:
        counts = self._generator.stats()
        self.stats.generation = counts
        self.stats.waiting, self.stats.running = counts.waiting, counts.running


def _chunk(update: SequenceUpdate, stream: _Stream, now: float) -> GenerationChunk:
    usage = None
    if update.finish is not None:
        first = stream.first_token_at or now
        usage = GenerationUsage(
            prompt_tokens=stream.prompt_tokens,
            cached_tokens=update.cached_tokens,
            completion_tokens=stream.tokens,
            queue_ms=update.queue_s * 1e3,
            first_token_ms=(first - stream.arrival) * 1e3,
            total_ms=(now - stream.arrival) * 1e3,
            preemptions=update.preemptions,
        )
    return GenerationChunk(
        token_ids=update.tokens,
        text=update.text,
        logprobs=update.logprobs,
        finish_reason=update.finish,
        matched_stop=update.matched_stop,
        usage=usage,
    )


def _shown(error: Exception) -> DeepseekError:
    if isinstance(error, DeepseekError):
        return error
    if isinstance(error, MemoryError):
        return InferenceError(
            "There is not enough memory to compute this step.",
            code=ErrorCode.RESOURCE_EXHAUSTED,
            hint="Send fewer or shorter requests at once.",
            reason="OutOfMemory",
        )
    return _internal()


def _internal() -> InferenceError:
    return InferenceError(
        "The model failed to compute this request.",
        code=ErrorCode.INTERNAL,
        hint="The log of the engine has the cause.",
    )
