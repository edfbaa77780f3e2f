"""The Open Inference Protocol: one method for each call.

Why it exists: it says which module answers which call, and refuses what is not offered. Errors are
raised as DeepseekError; the interceptor turns them into statuses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc.aio
from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc

from deepseek_worker.answering import Answering
from deepseek_worker.descriptions import model_config, model_index, model_metadata
from deepseek_worker.drain import Drain
from deepseek_worker.encoding import MODEL_VERSION
from deepseek_worker.fleet import Phase
from deepseek_worker.oip_stream import StreamInfer
from deepseek_worker.statistics import Statistics

__all__ = ["InferenceService"]

EXTENSIONS = ("model_configuration", "statistics", "model_repository")
"""Extensions of the protocol that really work; the repository is read-only."""

_Context = grpc.aio.ServicerContext[Any, Any]


class _Refusals(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The calls of the protocol that a worker never answers."""

    async def RepositoryModelLoad(self, request: Any, context: _Context) -> Any:
        """Models come from the pipeline only."""
        _refuse_management("Models are not loaded over the network.")

    async def RepositoryModelUnload(self, request: Any, context: _Context) -> Any:
        """Models come from the pipeline only."""
        _refuse_management("Models are not unloaded over the network.")

    async def TraceSetting(self, request: Any, context: _Context) -> Any:
        """Settings come from the configuration only."""
        _refuse_management("Trace settings are not offered over the network.")

    async def LogSettings(self, request: Any, context: _Context) -> Any:
        """Settings come from the configuration only."""
        _refuse_management("Log settings are not offered over the network.")

    async def _shared_memory(self, request: Any, context: _Context) -> Any:
        """Memory is never shared with clients."""
        _refuse("Shared memory is not offered.", "Send the data in the message.")

    SystemSharedMemoryStatus = _shared_memory
    SystemSharedMemoryRegister = _shared_memory
    SystemSharedMemoryUnregister = _shared_memory
    CudaSharedMemoryStatus = _shared_memory
    CudaSharedMemoryRegister = _shared_memory
    CudaSharedMemoryUnregister = _shared_memory


class InferenceService(_Refusals):
    """Answers GRPCInferenceService for the models of one engine."""

    def __init__(
        self,
        *,
        answering: Answering,
        drain: Drain,
        statistics: Statistics,
        version: str,
    ) -> None:
        self._answering = answering
        self._fleet = answering.fleet
        self._drain = drain
        self._statistics = statistics
        self._version = version

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: _Context
    ) -> pb.ServerLiveResponse:
        """True: the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: _Context
    ) -> pb.ServerReadyResponse:
        """True when every model is ready and the worker is not stopping."""
        return pb.ServerReadyResponse(ready=self._fleet.ready() and not self._drain.started)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: _Context
    ) -> pb.ModelReadyResponse:
        """True when the model is ready; an unknown model or version is not."""
        known = request.name in self._fleet.names and request.version in ("", MODEL_VERSION)
        ready = known and self._fleet.status(request.name).phase is Phase.READY
        return pb.ModelReadyResponse(ready=ready and not self._drain.started)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: _Context
    ) -> pb.ServerMetadataResponse:
        """Name, version and the extensions that work."""
        return pb.ServerMetadataResponse(
            name="deepseek", version=self._version, extensions=EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: _Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs of a model."""
        return model_metadata(self._fleet.known(request.name, request.version))

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: _Context
    ) -> pb.ModelConfigResponse:
        """Settings of a model."""
        info = self._fleet.known(request.name, request.version)
        return pb.ModelConfigResponse(config=model_config(info))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: _Context
    ) -> pb.ModelStatisticsResponse:
        """Counters of one model, or of all when the name is empty."""
        if request.name:
            infos = [self._fleet.known(request.name, request.version)]
        else:
            statuses = self._fleet.statuses()
            infos = [status.info for status in statuses if status.info is not None]
        return pb.ModelStatisticsResponse(
            model_stats=[self._statistics.message(info) for info in infos]
        )

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: _Context
    ) -> pb.RepositoryIndexResponse:
        """The models and their states."""
        return model_index(self._fleet.statuses(), only_ready=request.ready)

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: _Context
    ) -> pb.ModelInferResponse:
        """Run one inference.

        Raises:
            DeepseekError: with the code and the sentence for the caller.
        """
        return await self._answering.whole(request, context.time_remaining)

    def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: _Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Run inferences over one stream; models that generate answer in parts."""
        return StreamInfer(self._answering, context.time_remaining).run(request_iterator)


def _refuse(message: str, hint: str) -> NoReturn:
    raise InferenceError(message, hint=hint, code=ErrorCode.UNIMPLEMENTED, reason="NotImplemented")


def _refuse_management(message: str) -> NoReturn:
    _refuse(message, "Change the pipeline instead.")
