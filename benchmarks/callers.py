"""Callers over gRPC: so many at a time, each sending its next request when the last is answered.

Why it exists: the load must cost as little of the machine as possible, for it shares the processor
with what it measures. Requests are encoded once and sent as bytes; answers are not decoded in the
measured time. Runs in a process of its own (:mod:`benchmarks.child`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import grpc.aio
import numpy as np
from deepseek._wire import infer_request, result_of
from deepseek_engine.codec import Array
from deepseek_protos import inference_pb2 as pb

__all__ = ["Callers"]

METHOD = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S = 120.0
WARM_UPS = 3


class Callers:
    """A client process with one connection."""

    choice = ""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Connect to ``spec["target"]``; requests hold ``texts``, ``image`` or ``arrays``."""
        self._runner = asyncio.Runner(loop_factory=_loop_factory())
        self._request = _encode(spec)

        # The type information of the library asks for arguments that it does not need.
        async def connect() -> Any:
            return grpc.aio.insecure_channel(spec["target"])

        self._channel = self._runner.run(connect())
        self._call = self._channel.unary_unary(METHOD)

    def first(self) -> Array:
        """Warm up; the first output of floats that the server gives."""
        for _ in range(WARM_UPS):
            content = self._runner.run(self._once())
        outputs = result_of(pb.ModelInferResponse.FromString(content)).outputs.values()
        floats: list[Array] = [array for array in outputs if array.dtype.kind == "f"]
        return floats[0] if floats else np.empty(0)

    def turn(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Send ``requests`` by ``callers`` callers; milliseconds of each and seconds of all."""
        return self._runner.run(self._turn(command["requests"], command["callers"]))

    def close(self) -> None:
        """Close the connection."""
        self._runner.run(self._channel.close())
        self._runner.close()

    async def _turn(self, requests: int, callers: int) -> dict[str, Any]:
        await self._once()
        taken: list[float] = []
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                share = requests // callers + (number < requests % callers)
                group.create_task(self._caller(share, taken))
        return {"ms": taken, "elapsed_s": time.perf_counter() - started}

    async def _caller(self, requests: int, taken: list[float]) -> None:
        for _ in range(requests):
            started = time.perf_counter()
            await self._once()
            taken.append((time.perf_counter() - started) * 1e3)

    async def _once(self) -> bytes:
        content: bytes = await self._call(self._request, timeout=TIMEOUT_S)
        return content


def _encode(spec: Mapping[str, Any]) -> bytes:
    inputs: dict[str, Any] = {}
    if "texts" in spec:
        inputs["text"] = spec["texts"]
    elif "image" in spec:
        with open(spec["image"], "rb") as stream:
            inputs["image"] = [stream.read()]
    else:
        with np.load(spec["arrays"]) as stored:
            inputs = {key.partition("/")[2]: stored[key] for key in stored.files}
    return infer_request(spec["model"], inputs).SerializeToString()


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
