"""The Open Inference Protocol: one method for each call.

Why it exists: it joins what the other modules do (decode, check, ask the engine, encode, count) and
holds no knowledge of its own beyond the order of these steps. Errors are raised as DeepseekError;
the interceptor turns them into statuses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, NoReturn

import grpc.aio
from deepseek_api.errors import DeepseekError, EngineUnavailableError, ErrorCode, InferenceError
from deepseek_engine.client import (
    EngineClient,
    InferenceRequest,
    InferenceResponse,
    ModelInfo,
    check_request,
)
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc

from deepseek_worker.config import Limits
from deepseek_worker.decoding import decode_request, is_typed
from deepseek_worker.descriptions import model_config, model_index, model_metadata
from deepseek_worker.drain import Drain
from deepseek_worker.encoding import MODEL_VERSION, encode_response
from deepseek_worker.fleet import Fleet, Phase
from deepseek_worker.metrics import Metrics
from deepseek_worker.statistics import Statistics

__all__ = ["InferenceService"]

logger = logging.getLogger(__name__)

EXTENSIONS = ("model_configuration", "statistics", "model_repository")
"""Extensions of the protocol that really work; the repository is read-only."""

_Context = grpc.aio.ServicerContext[Any, Any]


class _Refusals(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The calls of the protocol that a worker never answers."""

    def ModelStreamInfer(self, request_iterator: Any, context: _Context) -> Any:
        """No model answers in streams."""
        return _refuse_stream("No model of this worker answers in streams.", "Call ModelInfer.")

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
        engine: EngineClient,
        fleet: Fleet,
        drain: Drain,
        metrics: Metrics,
        statistics: Statistics,
        limits: Limits,
        default_deadline_s: float,
        version: str,
    ) -> None:
        self._engine = engine
        self._fleet = fleet
        self._drain = drain
        self._metrics = metrics
        self._statistics = statistics
        self._limits = limits
        self._default_deadline_s = default_deadline_s
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
        started = time.monotonic()
        if self._drain.started:
            raise EngineUnavailableError(
                "The worker is shutting down.", hint="Send the request to another worker."
            )
        name = request.model_name if request.model_name in self._fleet.names else ""
        call = _Call(name, started)
        try:
            with self._drain.running(), self._metrics.running.labels(name).track_inprogress():
                return await self._infer(request, context, call)
        except DeepseekError as error:
            call.outcome(error.code.value, error.reason)
            raise
        except asyncio.CancelledError:
            expired = context.time_remaining() == 0
            call.outcome("DEADLINE_EXCEEDED" if expired else "CANCELLED", "")
            raise
        except Exception:
            call.outcome("INTERNAL", "Unexpected")
            raise
        finally:
            self._count(call)

    async def _infer(
        self, message: pb.ModelInferRequest, context: _Context, call: _Call
    ) -> pb.ModelInferResponse:
        info = self._fleet.servable(message.model_name, message.model_version)
        call.info = info
        remaining = context.time_remaining()
        allowed = self._default_deadline_s if remaining is None else remaining
        request = decode_request(
            message, limits=self._limits, now=call.started, deadline=call.started + allowed
        )
        call.rows = check_request(request, info)
        response = call.response = await self._answer(request)
        typed = is_typed(message)
        return encode_response(response, model=info.name, request_id=request.id, typed=typed)

    async def _answer(self, request: InferenceRequest) -> InferenceResponse:
        try:
            async with asyncio.timeout_at(_loop_time(request.deadline)):
                return await self._engine.infer(request)
        except TimeoutError:
            raise InferenceError(
                "The request was not answered before its deadline.",
                code=ErrorCode.DEADLINE_EXCEEDED,
                reason="DeadlineExceeded",
            ) from None

    def _count(self, call: _Call) -> None:
        seconds = time.monotonic() - call.started
        precision = call.info.precision if call.info else ""
        if logger.isEnabledFor(logging.DEBUG):
            facts = {"model": call.model, "code": call.code, "reason": call.reason}
            logger.debug("request", extra={**facts, "ms": round(seconds * 1000, 3)})
        self._metrics.answered(call.model, precision, call.code, call.reason)
        if call.info is None:
            return
        series = self._metrics.series(call.model, precision)
        series.duration.observe(seconds)
        if call.response is not None:
            timing = call.response.timing
            series.queue.observe(timing.queue_ms / 1000)
            series.compute.observe(timing.compute_ms / 1000)
            at_ms = int(time.time() * 1000)
            self._statistics.succeeded(
                call.model, seconds=seconds, timing=timing, rows=call.rows, at_ms=at_ms
            )
        else:
            self._statistics.failed(call.model, seconds=seconds)


class _Call:
    """What is noted of one ModelInfer for metrics and the access log; never its content."""

    __slots__ = ("code", "info", "model", "reason", "response", "rows", "started")

    def __init__(self, model: str, started: float) -> None:
        self.model = model
        self.started = started
        self.code = "OK"
        self.reason = ""
        self.rows = 0
        self.info: ModelInfo | None = None
        self.response: InferenceResponse | None = None

    def outcome(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason
        self.response = None


def _loop_time(deadline: float | None) -> float | None:
    """A deadline of the monotonic clock on the clock of the event loop."""
    if deadline is None:
        return None
    return asyncio.get_running_loop().time() + deadline - time.monotonic()


def _refuse(message: str, hint: str) -> NoReturn:
    raise InferenceError(message, hint=hint, code=ErrorCode.UNIMPLEMENTED, reason="NotImplemented")


def _refuse_management(message: str) -> NoReturn:
    _refuse(message, "Change the pipeline instead.")


async def _refuse_stream(message: str, hint: str) -> Any:
    _refuse(message, hint)
    yield  # makes this function an asynchronous generator
