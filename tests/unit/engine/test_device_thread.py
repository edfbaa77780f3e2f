"""The thread of a device: order, ends, and what it keeps."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest
from deepseek_engine.device_thread import DeviceThread

from tests.support.engine import eventually

NAME = "device-under-test"


@pytest.fixture
def thread() -> Iterator[DeviceThread]:
    made = DeviceThread(NAME)
    yield made
    made.stop()


@pytest.fixture
def gate(thread: DeviceThread) -> Iterator[threading.Event]:
    """Keeps the thread busy until it is set."""
    opened, inside = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        opened.wait(20)

    thread.run(wait)
    assert inside.wait(20)
    yield opened
    opened.set()


def threads_of_that_name() -> int:
    return sum(thread.name == NAME for thread in threading.enumerate())


async def test_functions_run_in_order_on_one_other_thread(thread: DeviceThread) -> None:
    seen: list[tuple[int, int]] = []

    def note(number: int) -> None:
        seen.append((number, threading.get_ident()))

    for number in range(0, 20, 2):
        thread.run(lambda number=number: note(number))  # type: ignore[misc]
        await thread.call(lambda number=number: note(number + 1))  # type: ignore[misc]
    assert [number for number, _ in seen] == list(range(20))
    assert len({ident for _, ident in seen} - {threading.get_ident()}) == 1


async def test_a_call_gives_what_the_function_returns_or_raises(thread: DeviceThread) -> None:
    assert await thread.call(lambda: "made") == "made"
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 / 0)
    assert await thread.call(lambda: "still there") == "still there"


async def test_what_raises_is_logged_and_the_next_function_runs(
    thread: DeviceThread, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        thread.run(fail)
        assert await thread.call(lambda: 7) == 7
    assert "ZeroDivisionError" in caplog.text


async def test_a_cancelled_caller_takes_back_what_has_not_started(
    thread: DeviceThread, gate: threading.Event
) -> None:
    ran: list[int] = []
    waiting = asyncio.create_task(thread.call(lambda: ran.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await thread.call(lambda: ran.append(2))
    assert ran == [2]


async def test_stopping_drops_what_waits_and_does_not_wait_for_what_runs(
    thread: DeviceThread, gate: threading.Event
) -> None:
    ran: list[int] = []
    waiting = asyncio.create_task(thread.call(lambda: ran.append(1)))
    await asyncio.sleep(0)
    thread.run(lambda: ran.append(2))
    thread.stop()
    assert not gate.is_set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await eventually(lambda: not threads_of_that_name())
    assert ran == []


async def test_a_stopped_thread_takes_nothing_more(thread: DeviceThread) -> None:
    thread.stop()
    thread.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        thread.run(lambda: None)
    with pytest.raises(RuntimeError, match="stopped"):
        await thread.call(lambda: None)


async def test_a_function_that_ran_is_not_kept_while_the_thread_waits(
    thread: DeviceThread,
) -> None:
    class Large:
        pass

    large = Large()
    gone = weakref.ref(large)
    done = threading.Event()

    def use(_: Large = large) -> None:
        done.set()

    thread.run(use)
    del use, large
    assert done.wait(20)
    await eventually(lambda: gone() is None)


async def test_the_thread_ends_with_its_owner() -> None:
    before = threads_of_that_name()
    owner = DeviceThread(NAME)
    assert await owner.call(threads_of_that_name) == before + 1
    del owner
    gc.collect()
    await eventually(lambda: threads_of_that_name() == before)


@pytest.mark.parametrize("end", ["", "thread.stop()"], ids=["in use", "stopped"])
def test_the_interpreter_waits_for_what_runs_and_for_nothing_else(end: str) -> None:
    script = f"""
import threading
from deepseek_engine.device_thread import DeviceThread

thread, inside = DeviceThread("device"), threading.Event()

def work():
    inside.set()
    threading.Event().wait(0.3)
    print("complete", flush=True)

thread.run(work)
inside.wait()
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "complete\n", "")
