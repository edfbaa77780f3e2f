"""Generating with an engine inside the caller's process.

Why it exists: the engine answers in its own event loop, in parts; a caller reads them in a plain
loop, and may stop in the middle.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from deepseek_engine.engine import Engine
from deepseek_engine.generation.parameters import sampling_parameters
from deepseek_engine.generation.requests import GenerationChunk, GenerationRequest
from deepseek_engine.generation.tensors import outcome

from deepseek._generating import Chunk, parameters_of

__all__ = ["generate"]


def generate(
    engine: Engine,
    call: Callable[[Coroutine[Any, Any, Any]], Any],
    model: str,
    prompt: str | Sequence[int],
    sampling: Mapping[str, Any],
) -> Iterator[Chunk]:
    """Parts of an answer; closing the iterator ends it.

    Args:
        engine: runs the model.
        call: runs a coroutine in the engine's loop and waits for its result.
        model: its name there.
        prompt: a text, or token numbers.
        sampling: settings by name.

    Raises:
        InferenceError: the model does not generate, or the prompt or a setting is wrong.
    """
    parameters = parameters_of(sampling)
    priority = parameters.get("priority", 0)
    request = GenerationRequest(
        model=model,
        prompt=prompt if isinstance(prompt, str) else tuple(prompt),
        sampling=sampling_parameters(parameters),
        adapter=str(parameters.get("adapter", "")),
        priority=priority if isinstance(priority, int) else 0,
    )
    chunks = engine.generate(request)
    try:
        while (chunk := call(_next(chunks))) is not None:
            yield _plain(chunk)
    finally:
        call(_close(chunks))


async def _next(chunks: AsyncGenerator[GenerationChunk, None]) -> GenerationChunk | None:
    return await anext(chunks, None)


async def _close(chunks: AsyncGenerator[GenerationChunk, None]) -> None:
    await chunks.aclose()


def _plain(chunk: GenerationChunk) -> Chunk:
    return Chunk(
        text=chunk.text,
        token_ids=chunk.token_ids,
        finish_reason=str(chunk.finish_reason or ""),
        logprobs=tuple((entry.token_id, entry.logprob, entry.top) for entry in chunk.logprobs),
        parameters={n: v for n, v in outcome(chunk).items() if n != "finish_reason"},
    )
