"""Requests and engine processes for the engine's tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from deepseek_engine.client import RemoteEngine
from deepseek_engine.codec import join_bytes, to_array, to_tensor
from deepseek_engine.messages import (
    EngineConfig,
    InferenceRequest,
    InferenceResponse,
    ModelConfig,
    Tensor,
)


def config(*bundles: Path, socket: str = "", **fields: Any) -> EngineConfig:
    """A configuration that serves each bundle under the name of its folder, with one thread."""
    models = tuple(ModelConfig(name=path.name, bundle=str(path)) for path in bundles)
    return EngineConfig(models=models, socket=socket, threads=1, **fields)


def model(path: Path, **fields: Any) -> ModelConfig:
    """A model under the name of its bundle's folder."""
    return ModelConfig(name=path.name, bundle=str(path), **fields)


def rows(
    name: str, values: object, *, request: Mapping[str, Any] | None = None
) -> InferenceRequest:
    """A request for a `tensors` model with FP32 ``[-1,16]``: one row of equal numbers a value."""
    array = np.repeat(np.atleast_1d(np.asarray(values, dtype=np.float32))[:, None], 16, axis=1)
    return InferenceRequest(name, (to_tensor("IN", "FP32", array),), **(request or {}))


def index(name: str, *values: int) -> InferenceRequest:
    """A request for the picky bundle."""
    array = np.array(values, dtype=np.int64)[:, None]
    return InferenceRequest(name, (to_tensor("IN", "INT64", array),))


def byte_rows(model_name: str, tensor: str, *values: bytes, **fields: Any) -> InferenceRequest:
    """A request with one BYTES input."""
    data = Tensor(tensor, "BYTES", (len(values),), join_bytes(values))
    return InferenceRequest(model_name, (data,), **fields)


def arrays(response: InferenceResponse) -> dict[str, Any]:
    """The outputs of an answer by name."""
    return {tensor.name: to_array(tensor) for tensor in response.outputs}


async def eventually(condition: Callable[[], object], *, within_s: float = 60.0) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it did not hold in time.
    """
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError("the condition did not become true in time") from None


@contextlib.contextmanager
def engine_process(
    settings: EngineConfig, *, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A running engine process; it is gone at the end, whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deepseek_engine"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(settings) + b"\n")
        process.stdin.flush()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        # The pipes are drained and closed, so that nothing is left open.
        with contextlib.suppress(BrokenPipeError):
            process.communicate(timeout=10)


@contextlib.asynccontextmanager
async def connection(path: str, **fields: Any) -> AsyncIterator[RemoteEngine]:
    """A connection to an engine process."""
    remote = RemoteEngine(path, **fields)
    await remote.connect()
    try:
        yield remote
    finally:
        await remote.close()
