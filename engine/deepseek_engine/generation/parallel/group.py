"""The leader of a rank group: starts the other ranks, gives them commands, and starts them again.

Why it exists: a sharded model is as reliable as its least reliable process. The leader is rank 0
and lives in the engine's process. When a rank ends, falls silent or reports a failure, the whole
group is ended (no rank may wait for one that is gone), what was being computed fails with
UNAVAILABLE, and a new group is started; what ranks held in memory besides weights is gone then.
Processes are started as fresh Pythons, never forked: torch's threads do not survive a fork.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from deepseek_api.errors import DeepseekError, EngineUnavailableError

from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.control import Configure
from deepseek_engine.generation.parallel.incarnation import Incarnation, Timeouts
from deepseek_engine.generation.parallel.ranks import Placement
from deepseek_engine.generation.parallel.shard import Shard, pack

__all__ = ["GroupState", "RankGroup", "Step", "Timeouts"]

logger = logging.getLogger(__name__)


class GroupState(enum.StrEnum):
    """Whether a group computes."""

    RUNNING = "running"
    RESTARTING = "restarting"
    CLOSED = "closed"


@dataclass(slots=True)
class Step:
    """One command being carried out by all ranks."""

    shard: Shard
    """The leader's own part."""
    _alive: Incarnation
    begun: bool = False
    """Whether other ranks have heard of it: then only all together can end it."""

    def command(
        self, name: str, fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> None:
        """Give all other ranks a command; the caller then has its own part do the same."""
        message, data = pack(name, fields, tensors)
        self.begun = True
        self._alive.broadcast(message, data)


class RankGroup:
    """All ranks of one model; this process is rank 0."""

    def __init__(
        self,
        *,
        loader: str,
        arguments: Mapping[str, Any],
        tensor_size: int = 1,
        pipeline_size: int = 1,
        device: str = "cpu",
        threads: int = 1,
        timeouts: Timeouts | None = None,
        prepare: Callable[[Step], None] | None = None,
    ) -> None:
        """Start all ranks and wait until each has loaded its part.

        Args:
            loader: ``module:function`` of a `ShardLoader`.
            arguments: for it; plain values that MessagePack can carry.
            tensor_size: ranks that share each layer.
            pipeline_size: stages.
            device: ``cpu``, or ``cuda``: then rank n uses GPU n.
            threads: of one rank's arithmetic on the processor.
            timeouts: how long things may take.
            prepare: is called before the first command, also after a restart.

        Raises:
            DeepseekError: a rank cannot load its part; the error is that rank's.
        """
        sizes = Placement(tensor_size=tensor_size, pipeline_size=pipeline_size)
        self._timeouts = timeouts or Timeouts()
        self._configure = Configure(
            tensor_size=sizes.tensor_size,
            pipeline_size=sizes.pipeline_size,
            device=device,
            loader=loader,
            arguments=dict(arguments),
            timeout_s=self._timeouts.exchange_s,
            threads=threads,
        )
        self._prepare = prepare
        self._computing = threading.Lock()
        self._changing = threading.Lock()
        self._closed = threading.Event()
        self._cause = ""
        self.restarts = 0
        """How often the group was started again."""
        self._alive: Incarnation | None = self._begin()

    @property
    def state(self) -> GroupState:
        """Whether it computes now."""
        if self._closed.is_set():
            return GroupState.CLOSED
        return GroupState.RUNNING if self._alive is not None else GroupState.RESTARTING

    @property
    def cause(self) -> str:
        """Why the group was started again the last time, or is being; empty: it never was."""
        return self._cause

    @property
    def facts(self) -> list[Mapping[str, int]]:
        """What each rank told of its part, in the order of the ranks.

        Raises:
            EngineUnavailableError: the group is being started again.
        """
        return self._running().facts

    @property
    def shard(self) -> Shard:
        """The leader's part.

        Raises:
            EngineUnavailableError: the group is being started again.
        """
        return self._running().shard

    @property
    def context(self) -> ParallelContext:
        """The leader's place and its traffic.

        Raises:
            EngineUnavailableError: the group is being started again.
        """
        return self._running().context

    @property
    def processes(self) -> tuple[int, ...]:
        """Process ids of ranks 1 and up; empty while they are being started again."""
        alive = self._alive
        return () if alive is None else alive.processes

    @contextmanager
    def step(self) -> Iterator[Step]:
        """Have all ranks do one thing; steps come one after the other.

        Raises:
            EngineUnavailableError: the group is being started again (``RanksRestarting``), or was
                lost during the step (``RankLost``); what ranks held in caches is gone.
        """
        with self._computing:
            alive = self._running()
            step = Step(alive.shard, alive)
            try:
                yield step
            # Any failure of one rank in the middle of a step leaves the others waiting.
            except Exception as error:
                if not step.begun:
                    raise
                # The watchdog knows better which rank it was, if it was one.
                alive.lost.wait(self._timeouts.blame_s)
                alive.lose(f"a step failed with {type(error).__name__}: {str(error)[:300]}")
                raise EngineUnavailableError(
                    f"The model lost one of its processes: {alive.cause}.",
                    hint="It is being started again; send the request again in a few seconds.",
                    reason="RankLost",
                ) from error

    def close(self) -> None:
        """End all ranks; calling it again does nothing."""
        self._closed.set()
        with self._changing:
            alive, self._alive = self._alive, None
        if alive is not None:
            alive.close()

    def _running(self) -> Incarnation:
        alive = self._alive
        if alive is None or alive.lost.is_set():
            closed = self._closed.is_set()
            raise EngineUnavailableError(
                "The model is closed."
                if closed
                else f"The model's processes are being started again: {self._cause}.",
                hint=None if closed else "Send the request again in a few seconds.",
                reason="EngineUnavailable" if closed else "RanksRestarting",
            )
        return alive

    def _begin(self) -> Incarnation:
        alive = Incarnation(self._configure, self._timeouts, self._on_loss)
        try:
            alive.start()
            if self._prepare is not None:
                self._prepare(Step(alive.shard, alive))
        except BaseException:
            alive.close()
            raise
        return alive

    def _on_loss(self, alive: Incarnation) -> None:
        """Called once for an incarnation that was lost after it ran, from any thread."""
        self._cause = alive.cause
        logger.error("a rank group is started again", extra={"cause": alive.cause})
        threading.Thread(target=self._restart, args=(alive,), name="restart", daemon=True).start()

    def _restart(self, lost: Incarnation) -> None:
        # A step that was running leaves first, because its exchanges fail now.
        with self._computing, self._changing:
            if self._alive is not lost:
                return
            self._alive = None
        lost.close()
        pause = self._timeouts.restart_s
        while not self._closed.wait(pause):
            try:
                alive = self._begin()
            except (DeepseekError, OSError, RuntimeError) as error:
                self._cause = str(error)
                logger.error("a rank group cannot be started", extra={"cause": str(error)[:500]})
                pause = min(2 * pause, self._timeouts.longest_restart_s)
                continue
            self.restarts += 1
            with self._changing:
                if not self._closed.is_set():
                    self._alive = alive
                    return
            alive.close()
