"""Proves that models answer, by asking them through the worker's own socket.

Why it exists: a loaded model is not yet a model that answers; only an inference on the way that
clients take shows it. The prober is a client like any other; its requests go first in the queue.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio
from deepseek_engine.client import ModelInfo
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc

from deepseek_worker.encoding import set_parameter
from deepseek_worker.fleet import Fleet

if TYPE_CHECKING:
    from deepseek_protos.inference_pb2_grpc import GRPCInferenceServiceAsyncStub as _Stub

__all__ = ["Prober", "probe_request"]

logger = logging.getLogger(__name__)

_SOON_S = 0.1
_LATER_S = 5.0
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def probe_request(info: ModelInfo) -> pb.ModelInferRequest:
    """The small valid request that the engine names for a model."""
    request = pb.ModelInferRequest(model_name=info.name, id="readiness")
    request.parameters["priority"].int64_param = 1
    for name, value in info.probe_parameters.items():
        set_parameter(request.parameters[name], value)
    for tensor in info.probe:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.data)
    return request


class Prober:
    """Asks every model that is loaded and not proven, until it answers."""

    def __init__(self, fleet: Fleet, *, target: str, timeout_s: float, max_bytes: int) -> None:
        """Prepare; `run` does the work.

        Args:
            fleet: the models; told of every outcome.
            target: address of the worker's own gRPC port.
            timeout_s: time that one inference may take, seconds.
            max_bytes: largest message.
        """
        self._fleet = fleet
        self._target = target
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        fleet.on_change(self._wake.set)

    async def run(self) -> None:
        """Probe until cancelled."""
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_send_message_length", self._max_bytes),
            ("grpc.max_receive_message_length", self._max_bytes),
        ]
        async with (
            grpc.aio.insecure_channel(self._target, options=options) as channel,
            asyncio.TaskGroup() as group,
        ):
            stub = cast("_Stub", inference_pb2_grpc.GRPCInferenceServiceStub(channel))
            while True:
                await self._wake.wait()
                self._wake.clear()
                for info in self._fleet.to_prove():
                    if info.name not in self._busy:
                        self._busy[info.name] = group.create_task(self._prove(stub, info.name))

    async def _prove(self, stub: _Stub, name: str) -> None:
        try:
            while True:
                infos = {info.name: info for info in self._fleet.to_prove()}
                if name not in infos:
                    return
                await asyncio.sleep(await self._ask(stub, infos[name]))
        finally:
            del self._busy[name]
            self._wake.set()

    async def _ask(self, stub: _Stub, info: ModelInfo) -> float:
        """Ask once, tell the outcome, and give the pause before the next time."""
        generation = self._fleet.generation
        try:
            await stub.ModelInfer(probe_request(info), timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            logger.warning(
                "a readiness probe failed",
                extra={"model": info.name, "code": error.code().name, "detail": error.details()},
            )
            if error.code() in _PASSING:
                return _SOON_S
            message = f"The readiness probe failed: {error.details()}"
            self._fleet.probe_failed(info.name, reason="ProbeFailed", message=message)
            return _LATER_S
        self._fleet.proven(info.name, generation=generation)
        return 0.0
