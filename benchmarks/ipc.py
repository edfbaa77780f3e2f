"""What the border between front end and engine process costs."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import zmq
import zmq.asyncio
from deepseek_engine.client import RemoteEngine
from deepseek_engine.codec import to_tensor
from deepseek_engine.engine import Engine
from deepseek_engine.messages import (
    EngineClient,
    EngineConfig,
    InferenceRequest,
    ModelConfig,
    ModelState,
)

from benchmarks.driver import ROOT, BenchError
from benchmarks.machine import Stamp
from benchmarks.peers import ENGINE, ZMQ_ECHO
from benchmarks.record import Record
from benchmarks.settings import Run
from benchmarks.stats import Rounds
from tests.support.bundles import write_identity

__all__ = ["run"]

PAYLOADS = {"4 KB": 1024, "600 KB": 150_528}
"""Numbers of FP32 in a request and in its answer; the second is a picture of 224 x 224."""
CALLS = 300
PACKAGES = ("pyzmq", "msgspec", "onnxruntime")
READY_S = 60.0
Call = Callable[[], Awaitable[object]]


def run(given: Run) -> list[Record]:
    """Measure round trips of an identity model, interleaved."""
    bundles = {
        size: write_identity(
            given.folder / f"identity-{count}", [("IN", "FP32", (-1, count))], name="identity"
        )
        for size, count in PAYLOADS.items()
    }
    models = tuple(ModelConfig(name=size, bundle=str(path)) for size, path in bundles.items())
    stamp = Stamp.take("ipc", PACKAGES)
    return asyncio.run(_measure(stamp, models, given))


async def _measure(stamp: Stamp, models: tuple[ModelConfig, ...], given: Run) -> list[Record]:
    records = []
    config = EngineConfig(
        models=models, threads=1, socket=str(given.folder / "e"), options={"log_level": "ERROR"}
    )
    async with _remote(config) as remote, Engine(config) as engine, _echo(given.folder) as echo:
        for size, count in PAYLOADS.items():
            given.say(f"round trips of {size}")
            request = InferenceRequest(
                size, (to_tensor("IN", "FP32", np.ones((1, count), np.float32)),)
            )
            payload = bytes(4 * count)

            async def bare(content: bytes = payload) -> object:
                await echo.send_multipart([msgspec.msgpack.encode({"id": 1}), content], copy=False)
                return await echo.recv_multipart(copy=False)

            calls: dict[str, Call] = {
                "remote": _infer(remote, request),
                ENGINE: _infer(engine, request),
                ZMQ_ECHO: bare,
            }
            records += _records(stamp, size, await _rounds(calls, given))
    return records


def _infer(engine: EngineClient | Engine, request: InferenceRequest) -> Call:
    return lambda: engine.infer(request)


async def _rounds(calls: dict[str, Call], given: Run) -> dict[str, Rounds]:
    count = given.effort.calls(CALLS)
    medians: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(given.effort.rounds):
        for name, call in calls.items():
            await call()
            taken = []
            for _ in range(count):
                started = time.perf_counter()
                await call()
                taken.append((time.perf_counter() - started) * 1e3)
            medians[name].append(statistics.median(taken))
    return {name: Rounds(tuple(m), n=count * len(m)) for name, m in medians.items()}


def _records(stamp: Stamp, size: str, rounds: dict[str, Rounds]) -> list[Record]:
    remote, local = rounds["remote"], rounds[ENGINE]
    border = Rounds(
        tuple(far - near for far, near in zip(remote.values, local.values, strict=True)), remote.n
    )
    return [
        stamp.versus(
            f"engine process, {size}",
            "round trip",
            "ms",
            subject=remote,
            peer=ENGINE,
            peer_rounds=local,
            better="lower",
        ),
        stamp.versus(
            f"process border alone, {size}",
            "round trip",
            "ms",
            subject=border,
            peer=ZMQ_ECHO,
            peer_rounds=rounds[ZMQ_ECHO],
            better="lower",
        ),
    ]


@contextlib.asynccontextmanager
async def _remote(config: EngineConfig) -> AsyncIterator[RemoteEngine]:
    """A connection to a real engine process that has loaded its models."""
    with _process("-m", "deepseek_engine") as process:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        process.stdin.flush()
        remote = RemoteEngine(config.socket)
        await remote.connect()
        try:
            infos = await remote.wait_ready(timeout_s=READY_S)
            failed = [i.message for i in infos.values() if i.state is not ModelState.READY]
            if failed:
                raise BenchError(failed[0])
            yield remote
        finally:
            await remote.close()


@contextlib.asynccontextmanager
async def _echo(folder: Path) -> AsyncIterator[zmq.asyncio.Socket]:
    """A connection to a process that sends every message back."""
    address = f"ipc://{folder / 'z'}"
    with _process("-m", "benchmarks.echo", address):
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(address)
        try:
            yield socket
        finally:
            socket.close()
            context.term()


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
