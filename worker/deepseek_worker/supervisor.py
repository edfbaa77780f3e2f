"""Starts the engine process, watches it, and starts it again.

Why it exists: a fault of a device or of a runtime must end nothing but the engine process. The
supervisor sees a process that ended at once, one whose heartbeats stopped, and one that hangs in a
batch; it kills what does not answer and restarts with growing pauses. It knows nothing of requests:
the connection fails those by itself when the process is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from deepseek_engine.client import EngineConfig, Heartbeat

from deepseek_worker.config import Supervision

__all__ = ["ENGINE_COMMAND", "Supervisor"]

logger = logging.getLogger(__name__)
engine_logger = logging.getLogger("deepseek_engine.process")

ENGINE_COMMAND = (sys.executable, "-m", "deepseek_engine")
_CHECK_S = 0.25
_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "time", "logger"}
"""Fields of an engine's line that this process sets itself."""
_MAX_LINE = 64 * 1024
MAX_FAILED_STARTS = 3
"""So many processes in a row that end before their first heartbeat are given up."""


class Supervisor:
    """One engine process at a time, for as long as the worker runs."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        settings: Supervision,
        on_lost: Callable[[], None],
        command: Sequence[str] = ENGINE_COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `run` starts the first process.

        Args:
            config: handed to each process as one line of JSON on its standard input.
            settings: when a process counts as lost.
            on_lost: called in the event loop when a process ended or is about to be killed.
            command: program and arguments of the engine.
            clock: monotonic seconds, the clock of the heartbeats.
        """
        self._line = msgspec.json.encode(config) + b"\n"
        self._settings = settings
        self._on_lost = on_lost
        self._command = tuple(command)
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = clock()
        self._beaten_at: float | None = None
        self._alive_at = clock()
        self._busy_since: float | None = None
        self._starts = 0
        self._last_status: int | None = None

    @property
    def last_status(self) -> int | None:
        """How the last process ended by itself, negative for a signal; None: it was killed."""
        return self._last_status

    @property
    def restarts(self) -> int:
        """How often a process had to be started again."""
        return max(self._starts - 1, 0)

    @property
    def pid(self) -> int | None:
        """Process id of the engine, or None between two processes."""
        return self._process.pid if self._process is not None else None

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Note that the engine lives; to be called for each heartbeat."""
        self._beaten_at = self._alive_at = self._clock()
        self._busy_since = heartbeat.device_busy_since

    def silent_s(self) -> float:
        """Seconds since any engine process gave a sign of life."""
        return self._clock() - self._alive_at

    async def run(self) -> None:
        """Keep an engine process running; returns when it cannot be started."""
        failures = failed_starts = 0
        while True:
            await self._run_once()
            lived = self._clock() - self._started_at
            failures = 1 if lived >= self._settings.stable_after_s else failures + 1
            failed_starts = failed_starts + 1 if self._beaten_at is None else 0
            if failed_starts >= MAX_FAILED_STARTS:
                logger.error("the engine process cannot be started; the lines above say why")
                return
            pause = self._pause(failures)
            logger.warning("the engine process restarts", extra={"pause_s": pause})
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End the process: ask it by closing its standard input, then kill it."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        await asyncio.wait({_ended(process)}, timeout=self._settings.stop_timeout_s)
        await _kill(process)

    def _pause(self, failures: int) -> float:
        if failures <= 1:
            return 0.0  # the first restart comes at once
        settings = self._settings
        exponent = min(failures - 2, 32)
        return min(settings.backoff_initial_s * 2.0**exponent, settings.backoff_max_s)

    async def _run_once(self) -> None:
        self._started_at, self._beaten_at, self._busy_since = self._clock(), None, None
        self._last_status = None
        process = self._process = self._spawn()
        output = asyncio.create_task(_forward(process))
        try:
            reason = await self._watch(process)
            logger.error("the engine process is lost", extra={"cause": reason, "pid": process.pid})
            self._on_lost()
            await _kill(process)
            await output
            self._process = None
        finally:
            output.cancel()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._starts += 1
        # Not the event loop's own way to start a process: that may fork, and gRPC's threads make
        # a fork noisy; Popen uses vfork.
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,  # a terminal's Ctrl-C must not reach it: this process drains
        )
        logger.info("the engine process started", extra={"pid": process.pid})
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it may have ended already
                process.stdin.write(self._line)
        return process

    async def _watch(self, process: subprocess.Popen[bytes]) -> str:
        """Wait until the process ended or does not answer; says which."""
        ended = _ended(process)
        while True:
            before = self._clock()
            await asyncio.wait({ended}, timeout=_CHECK_S)
            if ended.done():
                self._last_status = ended.result()
                return f"it ended with status {self._last_status}"
            # If this process itself was held up, heartbeats wait unread: look again first.
            held_up = self._clock() - before > _CHECK_S + 1.0
            if not held_up and (reason := self._wedged()):
                return reason

    def _wedged(self) -> str | None:
        now, settings = self._clock(), self._settings
        if self._beaten_at is None:
            if now - self._started_at > settings.start_timeout_s:
                return f"no heartbeat within {settings.start_timeout_s:g} s of its start"
        elif now - self._beaten_at > settings.heartbeat_timeout_s:
            return f"no heartbeat for {settings.heartbeat_timeout_s:g} s"
        elif self._busy_since is not None and now - self._busy_since > settings.batch_timeout_s:
            return f"one batch runs for more than {settings.batch_timeout_s:g} s"
        return None


def _ended(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """Waits in a thread; the process is always ended before the event loop is."""
    return asyncio.get_running_loop().run_in_executor(None, process.wait)


async def _kill(process: subprocess.Popen[bytes]) -> None:
    # The whole session: what the engine started must not outlive it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await _ended(process)


async def _forward(process: subprocess.Popen[bytes]) -> None:
    """Log what the engine prints; its JSON lines keep their level and fields."""
    reader = asyncio.StreamReader(limit=_MAX_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                continue  # longer than the limit: what was read is dropped
            if not line:
                return
            if text := line.decode("utf-8", "replace").strip():
                _log_line(text)
    finally:
        transport.close()


def _log_line(line: str) -> None:
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
        message = fields.pop("message")
    except (msgspec.MsgspecError, KeyError):
        fields, message = {}, line
    level = logging.getLevelNamesMapping().get(str(fields.pop("level", "INFO")), logging.INFO)
    extra = {name: value for name, value in fields.items() if name not in _RESERVED}
    engine_logger.log(level, "%s", message, extra=extra)
