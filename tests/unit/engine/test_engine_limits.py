"""Deadlines, cancellation and the bound of the queue."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from deepseek_api.errors import (
    ErrorCode,
    InferenceError,
    QueueFullError,
)
from deepseek_engine.engine import Engine
from deepseek_engine.messages import EngineConfig

from tests.support import bundles
from tests.support.engine import arrays, byte_rows, config, eventually, model, rows

STEPS = 30
"""Steps of the slow model: about 0.1 to 0.3 s, long enough to arrange things meanwhile."""


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    return bundles.write_echo(tmp_path / "echo")


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    return bundles.write_slow(tmp_path / "slow", steps=STEPS)


async def occupy(engine: Engine, name: str = "slow") -> asyncio.Task[object]:
    """Let the device be busy with one request."""
    task: asyncio.Task[object] = asyncio.create_task(engine.infer(rows(name, 0)))
    await eventually(lambda: engine.stats()[name].running)
    return task


async def test_an_expired_request_is_answered_at_once_and_never_started(slow: Path) -> None:
    async with Engine(config(slow)) as engine:
        first = await occupy(engine)
        overshoots = []
        for _ in range(3):
            deadline = time.monotonic() + 0.01
            with pytest.raises(InferenceError, match="deadline") as caught:
                await engine.infer(rows("slow", 1, request={"deadline": deadline}))
            overshoots.append(time.monotonic() - deadline)
            assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
        assert not first.done(), "the answers must not wait for the running batch"
        await first
        assert engine.stats()["slow"].rows == 1
        assert engine.stats()["slow"].waiting == 0
    # The best of three: a busy test machine may delay any single one.
    assert min(overshoots) < 0.02


async def test_a_request_that_comes_expired_is_refused(echo: Path) -> None:
    async with Engine(config(echo)) as engine:
        with pytest.raises(InferenceError) as caught:
            await engine.infer(rows("echo", 1, request={"deadline": time.monotonic() - 1}))
        assert engine.stats()["echo"].batches == 0
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


async def test_a_cancelled_request_is_dropped_and_never_started(slow: Path) -> None:
    async with Engine(config(slow)) as engine:
        first = await occupy(engine)
        task = asyncio.create_task(engine.infer(rows("slow", 1)))
        await eventually(lambda: engine.stats()["slow"].waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.stats()["slow"].waiting == 0
        await first
        assert engine.stats()["slow"].rows == 1


async def test_a_full_queue_refuses_with_the_time_to_retry_after(slow: Path) -> None:
    settings = EngineConfig(models=(model(slow, max_queue_size=4),), threads=1)
    async with Engine(settings) as engine:
        first = await occupy(engine)
        waiting = [asyncio.create_task(engine.infer(rows("slow", [1, 2]))) for _ in range(2)]
        await eventually(lambda: engine.stats()["slow"].waiting == 2)
        with pytest.raises(QueueFullError, match="4 rows wait and at most 4 may") as caught:
            await engine.infer(rows("slow", 1))
        assert caught.value.code is ErrorCode.UNAVAILABLE
        assert caught.value.retry_after_s > 0
        await asyncio.gather(first, *waiting)
        assert await engine.infer(rows("slow", 1))


async def test_a_request_with_more_rows_than_may_wait_is_taken_when_none_waits(slow: Path) -> None:
    settings = EngineConfig(models=(model(slow, max_queue_size=2),), threads=1)
    async with Engine(settings) as engine:
        first = await occupy(engine)
        large = asyncio.create_task(engine.infer(rows("slow", [1, 2, 3])))
        await eventually(lambda: engine.stats()["slow"].waiting)
        with pytest.raises(QueueFullError, match="3 rows wait and at most 2 may"):
            await engine.infer(rows("slow", [1, 2, 3]))
        await first
        assert arrays(await large)["OUT"][:, 0].tolist() == [1, 2, 3]


async def test_a_request_that_expires_while_it_is_prepared_is_answered_when_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = bundles.write_classifier(tmp_path / "colours")
    release = threading.Event()

    def stuck(*_: object, **__: object) -> None:
        release.wait(20)
        raise InferenceError("never told", code=ErrorCode.INTERNAL)

    async with Engine(config(colours)) as engine:
        monkeypatch.setattr("deepseek_engine.tasks.image.decode_picture", stuck)
        request = byte_rows("colours", "image", b"x", deadline=time.monotonic() + 0.02)
        task = asyncio.create_task(engine.infer(request))
        done, _ = await asyncio.wait({task}, timeout=10)
        release.set()
        assert done, "the answer must not wait for the thread"
        with pytest.raises(InferenceError, match="deadline") as caught:
            await task
        assert engine.stats()["colours"].waiting == 0
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
