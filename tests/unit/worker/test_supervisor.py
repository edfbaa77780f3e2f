"""The supervisor restarts what ends, with growing pauses, and gives up what never starts."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

import msgspec
import pytest
from deepseek_engine.client import EngineConfig, Heartbeat, ModelConfig
from deepseek_worker.config import Supervision
from deepseek_worker.supervisor import MAX_FAILED_STARTS, Supervisor

CONFIG = EngineConfig(models=(ModelConfig(name="a", bundle="b"),), socket="s")
BEAT = Heartbeat(sent_at=0.0, device_busy_since=None, models={}, stats={})
ECHO_CONFIG = "import sys; print(sys.stdin.readline().strip(), flush=True)"
WAIT = "import sys; sys.stdin.readline(); print('waits', flush=True); sys.stdin.read()"
IGNORE = "import sys, signal, threading; print('waits', flush=True); threading.Event().wait()"
FAST = Supervision(backoff_initial_s=0.01, backoff_max_s=0.02, stop_timeout_s=0.2)


def supervisor(
    code: str,
    *,
    settings: Supervision = FAST,
    on_lost: Callable[[], None] = lambda: None,
) -> Supervisor:
    command = (sys.executable, "-c", code)
    return Supervisor(CONFIG, settings=settings, on_lost=on_lost, command=command)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_engine_that_never_starts_is_given_up() -> None:
    lost: list[int] = []
    subject = supervisor("raise SystemExit(3)", on_lost=lambda: lost.append(1))
    async with asyncio.timeout(20):
        await subject.run()
    assert len(lost) == MAX_FAILED_STARTS
    assert subject.restarts == MAX_FAILED_STARTS - 1


@pytest.mark.parametrize(
    ("code", "status"),
    [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)],
    ids=["ended", "killed by somebody else"],
)
async def test_it_is_known_how_the_last_process_ended(code: str, status: int) -> None:
    subject = supervisor(code)
    async with asyncio.timeout(20):
        await subject.run()
    assert subject.last_status == status


async def test_the_engine_gets_its_configuration_as_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with asyncio.timeout(20):
        await supervisor(ECHO_CONFIG).run()
    lines = [r.getMessage() for r in caplog.records if r.name == "deepseek_engine.process"]
    assert msgspec.json.decode(lines[0], type=EngineConfig) == CONFIG


async def test_lines_of_the_engine_keep_their_level_and_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    code = (
        'print(\'{"level": "WARNING", "message": "hot", "model": "a", "name": 1}\'); '
        "print('x' * 200000); print('plain')"
    )
    async with asyncio.timeout(20):
        await supervisor(code).run()
    records = [r for r in caplog.records if r.name == "deepseek_engine.process"]
    assert (records[0].levelname, records[0].getMessage()) == ("WARNING", "hot")
    assert vars(records[0])["model"] == "a"
    assert "plain" in [record.getMessage() for record in records]
    assert max(len(record.getMessage()) for record in records) <= 64 * 1024


async def test_an_engine_without_a_first_heartbeat_is_replaced() -> None:
    settings = msgspec.structs.replace(FAST, start_timeout_s=0.1)
    subject = supervisor(WAIT, settings=settings)
    run = asyncio.create_task(subject.run())
    await until(lambda: subject.restarts >= 1)
    run.cancel()
    await subject.stop()


async def test_an_engine_whose_heartbeats_stop_is_replaced() -> None:
    lost = asyncio.Event()
    settings = msgspec.structs.replace(FAST, heartbeat_timeout_s=0.1)
    subject = supervisor(WAIT, settings=settings, on_lost=lost.set)
    run = asyncio.create_task(subject.run())
    await until(lambda: subject.pid)
    subject.heartbeat(BEAT)
    async with asyncio.timeout(10):
        await lost.wait()
    run.cancel()
    await subject.stop()


async def test_an_engine_that_hangs_in_a_batch_is_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lost = asyncio.Event()
    settings = msgspec.structs.replace(FAST, batch_timeout_s=60.0)
    subject = supervisor(WAIT, settings=settings, on_lost=lost.set)
    run = asyncio.create_task(subject.run())
    await until(lambda: subject.pid)
    subject.heartbeat(msgspec.structs.replace(BEAT, device_busy_since=time.monotonic() - 59.0))
    subject.heartbeat(msgspec.structs.replace(BEAT, device_busy_since=time.monotonic() - 61.0))
    async with asyncio.timeout(10):
        await lost.wait()
    run.cancel()
    await subject.stop()
    causes = [vars(record).get("cause") for record in caplog.records]
    assert "one batch runs for more than 60 s" in causes


@pytest.mark.parametrize("code", [WAIT, IGNORE], ids=["obeys", "ignores"])
async def test_stopping_ends_the_process(code: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    subject = supervisor(code)
    run = asyncio.create_task(subject.run())
    await until(lambda: "waits" in caplog.text)
    run.cancel()
    async with asyncio.timeout(5):
        await subject.stop()


async def test_silence_is_counted_from_the_last_sign_of_life() -> None:
    now = 100.0
    subject = Supervisor(CONFIG, settings=FAST, on_lost=lambda: None, clock=lambda: now)
    now = 130.0
    assert subject.silent_s() == 30.0
    subject.heartbeat(BEAT)
    assert subject.silent_s() == 0.0


@pytest.mark.parametrize(
    ("failures", "pause"), [(1, 0.0), (2, 0.5), (3, 1.0), (4, 2.0), (50, 30.0), (10_000, 30.0)]
)
def test_pauses_grow_after_the_first_restart_at_once(failures: int, pause: float) -> None:
    subject = Supervisor(CONFIG, settings=Supervision(), on_lost=lambda: None)
    assert subject._pause(failures) == pause
