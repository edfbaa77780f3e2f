"""One life of a rank group: its processes, its exchanges and the watch over them.

Why it exists: after a loss nothing of a group can be used again, so that everything that is lost
together is one object. Losing it kills all ranks at once (a stopped process cannot be asked) and
aborts the leader's exchanges, which then fail instead of waiting for ranks that are gone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from deepseek_api.errors import EngineUnavailableError, ErrorCode, InferenceError

from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.control import (
    Buffer,
    Configure,
    ControlSocket,
    Failed,
    Message,
    Ready,
)
from deepseek_engine.generation.parallel.environment import RankEnvironment
from deepseek_engine.generation.parallel.meeting import LOOPBACK, host_store, meet
from deepseek_engine.generation.parallel.ranks import close_context
from deepseek_engine.generation.parallel.shard import Shard, find_loader

__all__ = ["TICK_S", "Incarnation", "Timeouts"]

logger = logging.getLogger(__name__)

TICK_S = 0.2
"""How often the watch looks, seconds."""
_STOPPED_S = 2.0
_MODULE = "deepseek_engine.generation.parallel.rank"


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Seconds that things of a rank group may take."""

    start_s: float = 300.0
    """Until every rank has loaded its part."""
    silence_s: float = 4.0
    """A rank that is ready and from which nothing came for so long is lost; heartbeats come four
    times a second."""
    loading_silence_s: float = 60.0
    """The same before it is ready: importing a library holds all threads of a process up."""
    exchange_s: float = 300.0
    """An exchange whose partners do not come fails after it."""
    blame_s: float = 1.0
    """How long a step that failed waits for the watch to name the rank."""
    restart_s: float = 0.1
    longest_restart_s: float = 10.0
    """The pause before a restart, doubled after each that fails up to the longest."""


@dataclass
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    control: ControlSocket
    heard: float
    ready: threading.Event = field(default_factory=threading.Event)
    facts: Mapping[str, int] = field(default_factory=dict)
    failed: Failed | None = None


class Incarnation:
    """The ranks of a group from their start to their loss."""

    shard: Shard
    context: ParallelContext

    def __init__(
        self, configure: Configure, timeouts: Timeouts, on_loss: Callable[[Incarnation], None]
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            configure: what each rank is told; a ``cuda`` device becomes that of the rank's number.
            timeouts: how long things may take.
            on_loss: is called once if it is lost after `start` returned.
        """
        self._configure, self._timeouts, self._on_loss = configure, timeouts, on_loss
        self._ranks: list[_Rank] = []
        self._mutex = threading.Lock()
        self._started = False
        self._context: ParallelContext | None = None
        self.lost = threading.Event()
        """Set when it cannot be used any more."""
        self.cause = ""
        """Why, once it is lost."""

    @property
    def processes(self) -> tuple[int, ...]:
        """Process ids of ranks 1 and up."""
        return tuple(rank.process.pid for rank in self._ranks)

    @property
    def facts(self) -> list[Mapping[str, int]]:
        """Of every rank's part, this one's first."""
        return [self.shard.facts, *(rank.facts for rank in self._ranks)]

    def start(self) -> None:
        """Start the ranks, load the leader's part beside theirs, wait for all.

        Raises:
            DeepseekError: a rank, this one included, cannot load its part.
        """
        store = host_store(self._timeouts.start_s)
        size = self._configure.tensor_size * self._configure.pipeline_size
        for number in range(1, size):
            self._spawn(RankEnvironment(number, size, LOOPBACK, store.port))
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        device = torch.device(_device(self._configure.device, 0))
        try:
            self.context = self._context = meet(store, self._configure, 0, device)
            loader = find_loader(self._configure.loader)
            self.shard = loader(self._configure.arguments, self.context, device)
        except RuntimeError as error:
            # How exchanges fail when another rank is gone, which then is the cause.
            if self.lost.wait(self._timeouts.blame_s):
                self._raise_cause()
            raise EngineUnavailableError(
                f"The model's processes cannot meet: {str(error)[:300]}.", reason="RankLost"
            ) from error
        self._await_ready()
        with self._mutex:
            self._started = True
        if self.lost.is_set():
            self._raise_cause()

    def broadcast(self, message: Message, data: Sequence[Buffer]) -> None:
        """Send a message to all other ranks.

        Raises:
            OSError: one of them is gone.
        """
        for rank in self._ranks:
            rank.control.send(message, data)

    def lose(self, cause: str) -> None:
        """End all ranks and everything that is exchanged; the first cause stays."""
        with self._mutex:
            if self.lost.is_set():
                return
            self.cause = cause
            self.lost.set()
            tell = self._started
        for rank in self._ranks:
            rank.process.send_signal(signal.SIGKILL)
        if self._context is not None:
            close_context(self._context)
        if tell:
            self._on_loss(self)

    def close(self) -> None:
        """End all ranks without telling anybody, and wait until they have ended."""
        with self._mutex:
            self._started = False
        self.lose("the model was closed")
        for rank in self._ranks:
            rank.control.close()
            rank.process.wait()

    def _spawn(self, place: RankEnvironment) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(descriptor)],
                env=os.environ | place.variables(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[descriptor],
            )
        rank = _Rank(place.rank, process, ControlSocket(ours), time.monotonic())
        self._ranks.append(rank)
        configure = self._configure
        own = Configure(
            tensor_size=configure.tensor_size,
            pipeline_size=configure.pipeline_size,
            device=_device(configure.device, place.rank),
            loader=configure.loader,
            arguments=configure.arguments,
            timeout_s=configure.timeout_s,
            threads=configure.threads,
        )
        threading.Thread(
            target=self._listen, args=(rank, own), name=f"rank {place.rank}", daemon=True
        ).start()

    def _listen(self, rank: _Rank, configure: Configure) -> None:
        try:
            rank.control.send(configure)
            while (received := rank.control.receive()) is not None:
                rank.heard = time.monotonic()
                message = received[0]
                if isinstance(message, Ready):
                    rank.facts = message.facts
                    rank.ready.set()
                elif isinstance(message, Failed):
                    rank.failed = message
                    self.lose(f"rank {rank.number} failed: {message.message}")
                    return
        except (OSError, ValueError) as error:
            logger.warning("a rank's messages cannot be read", extra={"cause": str(error)[:200]})
        if not self.lost.is_set():
            self.lose(f"rank {rank.number} ended{_how(rank.process)}")

    def _watch(self) -> None:
        before = time.monotonic()
        while not self.lost.wait(TICK_S):
            now = time.monotonic()
            # Time in which this process was stopped is no silence of others. Shorter delays are
            # those of a busy machine, where a rank must be given up in time all the same.
            pause, before = now - before - TICK_S, now
            for rank in self._ranks:
                if pause > _STOPPED_S:
                    rank.heard += pause
                limit = self._timeouts.silence_s
                if not rank.ready.is_set():
                    limit = self._timeouts.loading_silence_s
                if now - rank.heard > limit:
                    self.lose(f"rank {rank.number} has not answered for {now - rank.heard:.1f} s")
                    break

    def _await_ready(self) -> None:
        end = time.monotonic() + self._timeouts.start_s
        for rank in self._ranks:
            while not rank.ready.wait(TICK_S):
                if time.monotonic() > end:
                    self.lose(f"rank {rank.number} was not ready in {self._timeouts.start_s:g} s")
                if self.lost.is_set():
                    self._raise_cause()

    def _raise_cause(self) -> None:
        for failed in (rank.failed for rank in self._ranks if rank.failed):
            raise InferenceError(
                failed.message,
                code=ErrorCode(failed.code),
                hint=failed.hint,
                reason=failed.reason,
            )
        raise EngineUnavailableError(
            f"The model's processes could not be started: {self.cause}.", reason="RankLost"
        )


def _device(kind: str, rank: int) -> str:
    return f"cuda:{rank}" if kind == "cuda" else kind


def _how(process: subprocess.Popen[bytes]) -> str:
    """How a process ended that has closed its socket."""
    try:
        status = process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        return ""
    return f" by signal {-status}" if status < 0 else f" with status {status}"
