"""A model that generates as a lane of its device, seen through an engine."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from deepseek_api.errors import DeepseekError, EngineUnavailableError, ErrorCode, InferenceError
from deepseek_engine.engine import Engine
from deepseek_engine.generation import loaded
from deepseek_engine.generation.requests import (
    Constraint,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    SamplingParameters,
)
from deepseek_engine.messages import InferenceRequest, ModelState, Tensor

from tests.support import bundles
from tests.support.engine import config, eventually, rows
from tests.support.scripted_generator import BROKEN, Script, answer_of, opened, write_generating


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def engine(
    tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Engine]:
    monkeypatch.setattr(loaded, "open_generator", lambda *_: opened(script))
    echo = bundles.write_echo(tmp_path / "echo")
    async with Engine(config(write_generating(tmp_path / "counter"), echo)) as engine:
        assert engine.models()["counter"].state is ModelState.READY, engine.models()["counter"]
        yield engine
        script.gate.set()


def ask(prompt: str | tuple[int, ...] = (5,), **fields: Any) -> GenerationRequest:
    names = ("deadline", "text", "adapter", "priority")
    request = {name: fields.pop(name) for name in names if name in fields}
    sampling = SamplingParameters(**{"max_tokens": 3, **fields})
    return GenerationRequest(model="counter", prompt=prompt, sampling=sampling, **request)


async def whole(chunks: AsyncGenerator[GenerationChunk, None]) -> list[GenerationChunk]:
    return [chunk async for chunk in chunks]


def tokens(chunks: list[GenerationChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


def at_rest(engine: Engine) -> bool:
    stats = engine.stats()["counter"]
    assert stats.generation is not None
    return (stats.waiting, stats.running, stats.generation.blocks_used) == (0, 0, 0)


async def test_an_answer_comes_in_parts_and_the_last_says_how_it_ended(engine: Engine) -> None:
    chunks = await whole(engine.generate(ask("3 5")))
    assert tokens(chunks) == [6, 7, 8]
    assert "".join(chunk.text for chunk in chunks) == "6 7 8 "
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 3)
    assert (last.usage.cached_tokens, last.usage.queue_ms) == (1, 250)
    assert 0 < last.usage.first_token_ms <= last.usage.total_ms


async def test_only_what_a_text_must_match_is_prepared_and_not_in_the_event_loop(
    engine: Engine, script: Script
) -> None:
    await whole(engine.generate(ask("3 5")))
    assert script.prepared == []
    await whole(engine.generate(ask("3 5", constraint=Constraint(kind="json_object"))))
    assert len(script.prepared) == 1
    assert script.prepared[0] is not threading.current_thread()


async def test_answers_of_several_callers_share_the_steps(engine: Engine, script: Script) -> None:
    script.gate.clear()
    before = script.steps
    asked = [asyncio.create_task(whole(engine.generate(ask((n,), max_tokens=20)))) for n in
             range(100, 900, 100)]  # fmt: skip
    await eventually(lambda: engine.stats()["counter"].running == 8)
    script.gate.set()
    for n, chunks in zip(range(100, 900, 100), await asyncio.gather(*asked), strict=True):
        assert tokens(chunks) == answer_of(n, 20)
    assert script.steps - before < 2 * 20


async def test_a_slow_reader_gets_larger_parts(engine: Engine, script: Script) -> None:
    async with contextlib.aclosing(engine.generate(ask(max_tokens=500))) as chunks:
        first = await anext(chunks)
        await eventually(lambda: engine.stats()["counter"].running == 0)
        rest = await whole(chunks)
    assert len(rest) == 1
    assert tokens([first, *rest]) == answer_of(5, 500)


async def test_a_whole_answer_is_an_inference(engine: Engine) -> None:
    request = InferenceRequest(
        "counter",
        (Tensor("input_ids", "INT64", (1, 2), struct.pack("<2q", 3, 5)),),
        parameters={"max_tokens": 2, "logprobs": 1},
    )
    response = await engine.infer(request)
    found = {tensor.name: bytes(tensor.data) for tensor in response.outputs}
    assert found["token_ids"] == struct.pack("<2q", 6, 7)
    assert found["text"] == b"\x04\x00\x00\x006 7 "
    assert found["logprobs"][4:] == b"[[6,-1.0,[[6,-1.0]]],[7,-1.0,[[7,-1.0]]]]"
    assert response.parameters["finish_reason"] == "length"
    assert response.parameters["completion_tokens"] == 2


async def test_batches_of_another_model_get_their_turn_between_steps(
    engine: Engine, script: Script
) -> None:
    script.step_s = 0.001
    async with contextlib.aclosing(engine.generate(ask(max_tokens=4000))) as chunks:
        await anext(chunks)
        for n in range(5):
            await engine.infer(rows("echo", n))
        assert engine.stats()["counter"].running == 1
    stats = engine.stats()
    assert stats["counter"].device_seconds > 0
    assert stats["echo"].device_seconds > 0


@pytest.mark.parametrize("how", ["closed", "cancelled", "deadline"])
async def test_whoever_leaves_frees_the_place_within_a_step(
    engine: Engine, script: Script, how: str
) -> None:
    script.step_s = 0.002
    deadline = time.monotonic() + 0.05 if how == "deadline" else None
    chunks = engine.generate(ask(max_tokens=4000, deadline=deadline))
    reading = asyncio.create_task(whole(chunks))
    await eventually(lambda: engine.stats()["counter"].running == 1)
    steps = script.steps
    if how == "deadline":
        with pytest.raises(InferenceError) as caught:
            await reading
        assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
        steps = script.steps
    else:
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await chunks.aclose()
    await eventually(lambda: at_rest(engine))
    assert script.steps - steps <= 1


async def test_a_place_is_free_when_a_step_that_runs_ends(engine: Engine, script: Script) -> None:
    script.gate.clear()
    reading = asyncio.create_task(whole(engine.generate(ask())))
    await eventually(lambda: engine.heartbeat().device_busy_since is not None)
    reading.cancel()
    await asyncio.wait([reading])
    script.gate.set()
    await eventually(lambda: at_rest(engine))


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (ask(()), ErrorCode.INVALID_ARGUMENT, "no tokens"),
        (ask((-1,)), ErrorCode.INVALID_ARGUMENT, "unknown token"),
        (ask(max_tokens=5000), ErrorCode.INVALID_ARGUMENT, "5000"),
        (ask(adapter="x"), ErrorCode.INVALID_ARGUMENT, "adapter 'x'"),
        (ask((BROKEN,)), ErrorCode.INTERNAL, "not numbers"),
        (ask(deadline=0.0), ErrorCode.DEADLINE_EXCEEDED, "deadline"),
    ],
    ids=["empty", "unknown token", "too long", "adapter", "not numbers", "expired"],
)
async def test_a_request_that_cannot_be_answered_fails_alone(
    engine: Engine, request_: GenerationRequest, code: ErrorCode, says: str
) -> None:
    other = asyncio.create_task(whole(engine.generate(ask(max_tokens=50))))
    with pytest.raises(DeepseekError, match=says) as caught:
        await whole(engine.generate(request_))
    assert caught.value.code is code
    assert tokens(await other) == answer_of(5, 50)
    assert at_rest(engine)


async def test_a_failed_step_fails_its_answers_and_no_later_ones(
    engine: Engine, script: Script
) -> None:
    script.error = ZeroDivisionError("/secret/path")
    with pytest.raises(DeepseekError) as caught:
        await whole(engine.generate(ask()))
    assert caught.value.code is ErrorCode.INTERNAL
    assert "secret" not in str(caught.value)
    script.error = None
    assert tokens(await whole(engine.generate(ask()))) == answer_of(5, 3)


async def test_what_a_text_must_match_is_refused_when_it_is_wrong(engine: Engine) -> None:
    bad = ask(constraint=Constraint(kind="regex", definition="("))
    with pytest.raises(InferenceError, match="not complete"):
        await whole(engine.generate(bad))
    assert at_rest(engine)


async def test_a_model_of_another_kind_does_not_generate(engine: Engine) -> None:
    with pytest.raises(InferenceError) as caught:
        await whole(engine.generate(GenerationRequest(model="echo", prompt="a")))
    assert caught.value.reason == "NotGenerating"


async def test_closing_fails_answers_that_are_not_complete(engine: Engine, script: Script) -> None:
    script.gate.clear()
    reading = asyncio.create_task(whole(engine.generate(ask())))
    await eventually(lambda: engine.stats()["counter"].running == 1)
    await engine.close()
    with pytest.raises(EngineUnavailableError):
        await reading


async def test_a_thousand_callers_that_leave_at_random_leave_nothing_behind(
    engine: Engine, script: Script
) -> None:
    draw = random.Random(7)

    async def caller(number: int) -> None:
        chunks = engine.generate(ask((number,), max_tokens=200))
        async with contextlib.aclosing(chunks):
            for _ in range(draw.randrange(4)):
                await anext(chunks)

    for start in range(0, 1000, 100):
        await asyncio.gather(*(caller(number + 20) for number in range(start, start + 100)))
    await eventually(lambda: at_rest(engine))
    assert tokens(await whole(engine.generate(ask()))) == answer_of(5, 3)
