"""The device's turns, seen through an engine: what shares a batch, and what ends one."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from deepseek_api.errors import DeepseekError, EngineUnavailableError, ErrorCode
from deepseek_engine import batch_lane
from deepseek_engine.engine import Engine
from deepseek_engine.execution import run_parts
from deepseek_engine.messages import EngineConfig

from tests.support import bundles
from tests.support.engine import arrays, config, eventually, model, rows


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    return bundles.write_echo(tmp_path / "echo")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Every batch waits on the device's thread until it is set."""
    opened = threading.Event()

    def wait(*args: object, **named: object) -> object:
        opened.wait(20)
        return run_parts(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(batch_lane, "run_parts", wait)
    return opened


def device_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "device-cpu"}


async def test_requests_that_come_together_share_a_batch_on_an_idle_device(echo: Path) -> None:
    async with Engine(config(echo)) as engine:
        answers = await asyncio.gather(*(engine.infer(rows("echo", n)) for n in range(5)))
        stats = engine.stats()["echo"]
    assert [answer.timing.batch_rows for answer in answers] == [5] * 5
    assert (stats.batches, stats.waiting, stats.running) == (1, 0, 0)


async def test_a_batch_that_may_wait_starts_when_it_is_due(echo: Path) -> None:
    settings = EngineConfig(models=(model(echo, latency_target_ms=500),), threads=1)
    async with Engine(settings) as engine:
        # The second request teaches the gap between requests, so that a third is worth a wait.
        for number in range(2):
            answer = await asyncio.wait_for(engine.infer(rows("echo", number)), 20)
        assert engine.stats()["echo"].releases == {"idle": 1, "slack": 1}
    assert arrays(answer)["OUT"][0, 0] == 1


async def test_a_request_that_fills_a_batch_ends_its_waiting(echo: Path) -> None:
    settings = EngineConfig(
        models=(model(echo, latency_target_ms=30_000, max_batch_size=2),), threads=1
    )
    async with Engine(settings) as engine:
        await engine.infer(rows("echo", 0))
        waits = asyncio.create_task(engine.infer(rows("echo", 1)))
        await eventually(lambda: engine.stats()["echo"].waiting)
        await asyncio.wait_for(asyncio.gather(waits, engine.infer(rows("echo", 2))), 20)
        assert engine.stats()["echo"].releases == {"idle": 1, "full": 1}


async def test_a_batch_that_fails_outside_the_model_fails_alone(
    echo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError("/secret/path")

    async with Engine(config(echo)) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(batch_lane, "run_parts", defect)
            with pytest.raises(DeepseekError) as caught:
                await engine.infer(rows("echo", 1))
        assert caught.value.code is ErrorCode.INTERNAL
        assert "secret" not in str(caught.value)
        assert await engine.infer(rows("echo", 1))
        assert engine.stats()["echo"].running == 0


async def test_a_batch_that_ends_after_the_device_was_closed_changes_nothing(
    echo: Path, gate: threading.Event
) -> None:
    others = device_threads()
    engine = Engine(config(echo))
    async with engine:
        asked = asyncio.create_task(engine.infer(rows("echo", 1)))
        await eventually(lambda: engine.stats()["echo"].running)
        await engine.close()
        with pytest.raises(EngineUnavailableError):
            await asked
        before = engine.stats()["echo"].batches
        gate.set()
        await eventually(lambda: device_threads() <= others)
        stats = engine.stats()["echo"]
    assert (stats.batches, stats.running, stats.waiting) == (before, 0, 0)


async def test_the_device_says_since_when_it_computes(echo: Path, gate: threading.Event) -> None:
    async with Engine(config(echo)) as engine:
        assert engine.heartbeat().device_busy_since is None
        asked = asyncio.create_task(engine.infer(rows("echo", 1)))
        await eventually(lambda: engine.stats()["echo"].running)
        assert engine.heartbeat().device_busy_since is not None
        gate.set()
        await asked
        assert engine.heartbeat().device_busy_since is None
