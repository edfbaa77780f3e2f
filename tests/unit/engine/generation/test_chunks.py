"""What waits for its reader, and how often a front end is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from deepseek_engine.generation.chunks import ChunkBuffer
from deepseek_engine.generation.requests import FinishReason, GenerationChunk, TokenLogprob
from deepseek_engine.streaming import Sender, pause_s

END = GenerationChunk(token_ids=(9,), finish_reason=FinishReason.STOP, matched_stop="x")


def part(token: int, text: str = "") -> GenerationChunk:
    return GenerationChunk(token_ids=(token,), text=text, logprobs=(TokenLogprob(token, -1.0, ()),))


async def test_what_is_not_taken_is_merged_in_order() -> None:
    buffer = ChunkBuffer()
    for chunk in (part(1, "a"), part(2, "b"), END):
        buffer.put(chunk)
    chunk = await buffer.get()
    assert (chunk.token_ids, chunk.text) == ((1, 2, 9), "ab")
    assert [entry.token_id for entry in chunk.logprobs] == [1, 2]
    assert (chunk.finish_reason, chunk.matched_stop) == (FinishReason.STOP, "x")
    assert buffer.ended


async def test_what_was_taken_does_not_come_again() -> None:
    buffer = ChunkBuffer()
    buffer.put(part(1))
    assert (await buffer.get()).token_ids == (1,)
    reading = asyncio.create_task(buffer.get())
    await asyncio.sleep(0)
    assert not reading.done()
    buffer.put(part(2))
    assert (await reading).token_ids == (2,)


async def test_an_error_ends_an_answer_and_drops_what_waits() -> None:
    buffer = ChunkBuffer()
    buffer.put(part(1))
    buffer.fail(ValueError("lost"))
    buffer.put(part(2))
    for _ in range(2):
        with pytest.raises(ValueError, match="lost"):
            await buffer.get()


async def test_an_error_after_the_end_changes_nothing() -> None:
    buffer = ChunkBuffer()
    buffer.put(END)
    buffer.fail(ValueError("late"))
    assert (await buffer.get()).finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("streams", "expected_ms"),
    [(1, 0.0), (4, 0.0), (16, 8.0), (40, 20.0), (1000, 20.0)],
    ids=["alone", "a few", "16", "40", "many"],
)
def test_the_pause_between_chunks_grows_with_the_answers_and_is_bounded(
    streams: int, expected_ms: float
) -> None:
    assert pause_s(streams) * 1000 == pytest.approx(expected_ms)


async def test_no_more_than_two_chunks_are_on_their_way_unread() -> None:
    buffer = ChunkBuffer()

    async def chunks() -> AsyncGenerator[GenerationChunk, None]:
        while True:
            chunk = await buffer.get()
            yield chunk
            if chunk.finish_reason is not None:
                return

    sent: list[GenerationChunk] = []
    sender = Sender(sent.append, streams=lambda: 1)
    sending = asyncio.create_task(sender.run(chunks()))
    for token in range(50):
        buffer.put(part(token))
        for _ in range(5):
            await asyncio.sleep(0)
    assert [chunk.token_ids for chunk in sent] == [(0,), (1,)]
    buffer.put(END)
    sender.taken()
    await asyncio.wait_for(sending, 20)
    assert sent[2].token_ids == (*range(2, 50), 9)
