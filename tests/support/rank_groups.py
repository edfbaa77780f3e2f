"""Rank groups of real processes in tests, and what is left of them afterwards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from deepseek_engine.generation.parallel.group import GroupState, Timeouts
from deepseek_engine.generation.parallel.sharded_model import ShardedModel

from tests.support.sharded_decoder import TinyShape, write

ROOT = Path(__file__).parent.parent.parent
LOADER = "tests.support.sharded_decoder:load"
HANG_S = 120.0
"""Nothing waits longer, however busy the machine is."""


def until(condition: Callable[[], bool], what: str, seconds: float = HANG_S) -> float:
    """Wait until something holds; gives the seconds that it took."""
    begin, waiting = time.monotonic(), threading.Event()
    while not condition():
        assert time.monotonic() - begin < seconds, f"not within {seconds} s: {what}"
        waiting.wait(0.02)
    return time.monotonic() - begin


def gone(process: int) -> bool:
    """Whether a process has ended; one that nobody has waited for has."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def sharded(
    folder: Path,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    shape: TinyShape | None = None,
    timeouts: Timeouts | None = None,
) -> Iterator[ShardedModel]:
    """A tiny model over processes; all of them have ended afterwards."""
    arguments = write(folder, shape or TinyShape())
    model = ShardedModel(
        loader=LOADER,
        arguments=arguments,
        tensor_size=tensor,
        pipeline_size=pipeline,
        timeouts=timeouts,
    )
    started = model.group.processes
    try:
        yield model
    finally:
        started = (*started, *model.group.processes)
        model.close()
        assert model.group.state is GroupState.CLOSED
        until(lambda: all(map(gone, started)), "ranks end when their model is closed")


def environment() -> str:
    """PYTHONPATH with which a rank finds the tests' loader."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def descendants(process: int) -> Sequence[int]:
    """Ids of a process's children and theirs."""
    return [child.pid for child in psutil.Process(process).children(recursive=True)]
