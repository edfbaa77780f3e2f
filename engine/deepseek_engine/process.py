"""The engine process: ``python -m deepseek_engine``.

Why it exists: a device fault must not take the network down, and Python's lock must not be shared
with it. The process reads one line of JSON from standard input, the `EngineConfig`. The end of
standard input means that the parent is gone, and then so is this process. It binds its socket
before it loads anything, so that its parent sees the progress of loading.

Options of `EngineConfig.options`: ``log_level`` (default INFO), ``grace_s`` (seconds that accepted
requests get after SIGTERM, default 5), ``heartbeat_s`` (seconds between heartbeats, default 0.5).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

import msgspec
from deepseek_api.errors import ConfigurationError, DeepseekError

from deepseek_engine.engine import Engine
from deepseek_engine.logs import json_formatter
from deepseek_engine.messages import EngineConfig
from deepseek_engine.server import EngineServer

__all__ = ["main"]

logger = logging.getLogger("deepseek_engine")

_MAX_CONFIG_BYTES = 4 * 1024 * 1024
_USAGE = 2
_LINGER_MS = 500


def main() -> int:
    """Run the engine process until it is told to stop; returns the exit status."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Until the event loop takes over, a SIGTERM must end the process as cleanly as later.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # Ctrl-C in a terminal reaches the whole group; the parent decides when this process stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        config = _read_config()
        asyncio.run(_serve(config))
    except DeepseekError as error:
        logger.error(error.message, extra={"reason": error.reason, "hint": error.hint})
        return _USAGE
    return 0


def _read_config() -> EngineConfig:
    line = bytearray()
    # Read byte-wise from the descriptor: a buffered reader would hold its lock at exit.
    while not line.endswith(b"\n"):
        chunk = os.read(sys.stdin.fileno(), 1)
        if not chunk or len(line) > _MAX_CONFIG_BYTES:
            break
        line += chunk
    try:
        config = msgspec.json.decode(bytes(line), type=EngineConfig)
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"Standard input does not begin with an engine configuration: {error}.",
            hint="This process is started by 'deepseek serve'.",
        ) from error
    level = str(config.options.get("log_level", "INFO")).upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigurationError(f"'{level}' is not a log level.", hint="Use INFO or DEBUG.")
    logging.getLogger().setLevel(level)
    return config


async def _serve(config: EngineConfig) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    orphaned = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def parent_gone() -> None:
        orphaned.set()
        stop.set()

    engine = Engine(config)
    heartbeat_s = float(config.options.get("heartbeat_s", 0.5))
    server = EngineServer(engine, config.socket, heartbeat_s=heartbeat_s)
    await server.start()
    engine.start()
    # From here on the event loop ends with the process only, so that the thread can always call it.
    _watch_stdin(lambda: loop.call_soon_threadsafe(parent_gone))
    loading = asyncio.create_task(engine.load(), name="load")
    await stop.wait()
    logger.info("engine stopping", extra={"parent_gone": orphaned.is_set()})
    if loading.done() and not orphaned.is_set():
        await engine.close(grace_s=float(config.options.get("grace_s", 5.0)))
        await server.drain()
        await server.close(linger_ms=_LINGER_MS)
    # A thread inside a runtime (opening a graph, running a batch) cannot be interrupted, and
    # nothing that it does outlives the process.
    _remove(config.socket)
    if orphaned.is_set():
        # A parent that was killed could not remove the folder that it made for the socket.
        _remove_empty(os.path.dirname(config.socket))
    logging.shutdown()
    os._exit(0)


def _watch_stdin(gone: Callable[[], object]) -> None:
    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        gone()

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        logger.debug("the socket was removed already")


def _remove_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        logger.debug("the folder of the socket is gone, or holds more")
