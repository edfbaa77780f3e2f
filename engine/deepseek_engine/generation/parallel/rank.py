"""One rank besides the leader: ``python -m deepseek_engine.generation.parallel.rank FD``.

Why it exists: a rank computes in a process of its own. It is started by a `RankGroup`, which gives
it one end of a socket pair as descriptor FD and its place in the environment. It obeys commands in
order and beats its heart from a thread, also while it loads and while it waits for other ranks. It
ends at once when the leader closes the socket or dies, whatever it is doing.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
from typing import Any

from deepseek_api.errors import ConfigurationError, DeepseekError, ErrorCode

from deepseek_engine.generation.parallel.control import (
    Command,
    Configure,
    ControlSocket,
    Failed,
    Heartbeat,
    Ready,
)
from deepseek_engine.generation.parallel.environment import RankEnvironment
from deepseek_engine.logs import json_formatter

__all__ = ["HEARTBEAT_S", "main"]

logger = logging.getLogger("deepseek_engine")

HEARTBEAT_S = 0.25
_BLAME_S = 0.5
_USAGE = 2
_FAILED = 1


def main(arguments: list[str]) -> int:
    """Run a rank until its leader is gone; returns the exit status."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Ctrl-C in a terminal reaches the whole group; the leader decides when this process stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        control, place = _connect(arguments)
    except DeepseekError as error:
        logger.error(error.message, extra={"reason": error.reason, "hint": error.hint})
        return _USAGE
    commands: queue.SimpleQueue[tuple[Any, bytearray]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(control, commands), name="control", daemon=True).start()
    threading.Thread(target=_beat, args=(control,), name="heartbeat", daemon=True).start()
    try:
        _obey(control, place, commands)
    # Whatever it was, the leader must hear of it, and no other rank may wait for this one.
    except Exception as error:
        if isinstance(error, RuntimeError):
            # What an exchange raises when another rank is gone. The leader knows which one, and
            # ends this process; only if it does not was the fault here.
            threading.Event().wait(_BLAME_S)
        logger.exception("the rank failed", extra={"rank": place.rank})
        _tell(control, error)
    logging.shutdown()
    # Not a return: threads of a runtime that wait for other ranks would hold the process up.
    os._exit(_FAILED)


def _connect(arguments: list[str]) -> tuple[ControlSocket, RankEnvironment]:
    place = RankEnvironment.read(os.environ)
    try:
        control = socket.socket(fileno=int(arguments[0]))
    except (IndexError, ValueError, OSError):
        control = None
    if control is None or place is None:
        raise ConfigurationError(
            "A rank needs the descriptor of its control socket and its place in the environment.",
            hint="This process is started by the engine for a model that is sharded.",
        )
    return ControlSocket(control), place


def _listen(control: ControlSocket, commands: queue.SimpleQueue[tuple[Any, bytearray]]) -> None:
    while (received := control.receive()) is not None:
        commands.put(received)
    os._exit(0)


def _beat(control: ControlSocket) -> None:
    waiting = threading.Event()
    try:
        while not waiting.wait(HEARTBEAT_S):
            control.send(Heartbeat())
    except OSError:
        os._exit(0)


def _obey(
    control: ControlSocket,
    place: RankEnvironment,
    commands: queue.SimpleQueue[tuple[Any, bytearray]],
) -> None:
    configure, _ = commands.get()
    if not isinstance(configure, Configure):
        raise ValueError("the first message does not say what the rank holds")
    # Only now: the heart beats while torch is imported.
    import torch

    from deepseek_engine.generation.parallel.meeting import join
    from deepseek_engine.generation.parallel.shard import unpack

    torch.set_num_threads(max(1, configure.threads))
    device = torch.device(configure.device)
    with torch.inference_mode():
        shard = join(configure, place, device)
        control.send(Ready(dict(shard.facts)))
        while True:
            command, data = commands.get()
            if not isinstance(command, Command):
                raise ValueError(f"a rank does not take {type(command).__name__}")
            shard.run(command.name, command.fields, unpack(command, data, device))


def _tell(control: ControlSocket, error: Exception) -> None:
    failed = Failed(
        str(ErrorCode.INTERNAL), "RankFailed", f"{type(error).__name__}: {str(error)[:500]}", None
    )
    if isinstance(error, DeepseekError):
        failed = Failed(str(error.code), error.reason, error.message, error.hint)
    try:
        control.send(failed)
    except OSError:
        logger.debug("the leader is gone")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
