"""Answers requests of the Open Inference Protocol, one by one or in parts.

Why it exists: ModelInfer and ModelStreamInfer differ in how answers travel, not in what a request
means. It joins what other modules do: decode, check, ask the engine, encode.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_engine.client import (
    EngineClient,
    InferenceRequest,
    InferenceResponse,
    ModelInfo,
    Timing,
    check_request,
    generation_request,
    merged,
    outcome,
    output_tensors,
)
from deepseek_protos import inference_pb2 as pb

from deepseek_worker.calls import Call, Ledger
from deepseek_worker.config import Limits
from deepseek_worker.decoding import decode_request, invalid, is_typed
from deepseek_worker.encoding import encode_part, encode_response
from deepseek_worker.fleet import Fleet

__all__ = ["Answering", "Remaining"]

Remaining = Callable[[], float | None]
"""Seconds until the client's deadline; None without one."""


class Answering:
    """Asks the engine what clients ask for."""

    def __init__(
        self,
        *,
        engine: EngineClient,
        fleet: Fleet,
        ledger: Ledger,
        limits: Limits,
        default_deadline_s: float,
        stream_deadline_s: float,
    ) -> None:
        """Prepare.

        Args:
            engine: answers.
            fleet: the models and their states.
            ledger: counts requests.
            limits: what a request may ask for.
            default_deadline_s: of requests that bring no deadline.
            stream_deadline_s: the same, of requests to models that generate.
        """
        self.engine = engine
        self.fleet = fleet
        self.ledger = ledger
        self._limits = limits
        self.default_deadline_s = default_deadline_s
        self.stream_deadline_s = stream_deadline_s

    async def whole(
        self, message: pb.ModelInferRequest, remaining: Remaining
    ) -> pb.ModelInferResponse:
        """The answer to a request.

        Raises:
            DeepseekError: with the code and the sentence for the caller.
        """
        with self.ledger.call(message.model_name, expired=lambda: remaining() == 0) as call:
            info, request = self._decoded(message, remaining(), call)
            call.rows = check_request(request, info)
            if info.generation is None:
                response = await self._inferred(request)
                call.timing = response.timing
            else:
                response = await self._generated(request, info, call)
            typed = is_typed(message)
            return encode_response(response, model=info.name, request_id=request.id, typed=typed)

    async def parts(
        self, message: pb.ModelInferRequest, remaining: Remaining
    ) -> AsyncGenerator[pb.ModelInferResponse, None]:
        """The answer to a request, in parts; models that do not generate answer in one.

        Every part carries ``triton_final_response``. With the parameter
        ``triton_enable_empty_final_response`` the last part of a generated answer is empty.

        Raises:
            DeepseekError: with the code and the sentence for the caller.
        """
        with self.ledger.call(message.model_name, expired=lambda: remaining() == 0) as call:
            info, request = self._decoded(message, remaining(), call)
            call.rows = check_request(request, info)
            typed = is_typed(message)
            if info.generation is None or not _flag(request, "stream", default=True):
                if info.generation is None:
                    response = await self._inferred(request)
                    call.timing = response.timing
                else:
                    response = await self._generated(request, info, call)
                answer = encode_response(
                    response, model=info.name, request_id=request.id, typed=typed
                )
                answer.parameters["triton_final_response"].bool_param = True
                yield answer
                return
            empty = _flag(request, "triton_enable_empty_final_response", default=False)
            outputs = request.outputs or info.default_outputs
            asked = generation_request(request, info.generation)
            async with contextlib.aclosing(self.engine.generate(asked)) as chunks:
                async for chunk in chunks:
                    call.generated(chunk)
                    last = chunk.finish_reason is not None
                    yield encode_part(
                        output_tensors(chunk, outputs),
                        outcome(chunk) | {"triton_final_response": last and not empty},
                        model=info.name,
                        request_id=request.id,
                        typed=typed,
                    )
            if empty:
                yield encode_part(
                    (),
                    {"triton_final_response": True},
                    model=info.name,
                    request_id=request.id,
                    typed=typed,
                )

    def _decoded(
        self, message: pb.ModelInferRequest, remaining: float | None, call: Call
    ) -> tuple[ModelInfo, InferenceRequest]:
        info = call.info = self.fleet.servable(message.model_name, message.model_version)
        default = self.stream_deadline_s if info.generation else self.default_deadline_s
        allowed = default if remaining is None else remaining
        request = decode_request(
            message, limits=self._limits, now=call.started, deadline=call.started + allowed
        )
        return info, request

    async def _inferred(self, request: InferenceRequest) -> InferenceResponse:
        try:
            async with asyncio.timeout_at(_loop_time(request.deadline)):
                return await self.engine.infer(request)
        except TimeoutError:
            raise InferenceError(
                "The request was not answered before its deadline.",
                code=ErrorCode.DEADLINE_EXCEEDED,
                reason="DeadlineExceeded",
            ) from None

    async def _generated(
        self, request: InferenceRequest, info: ModelInfo, call: Call
    ) -> InferenceResponse:
        assert info.generation is not None
        asked = generation_request(request, info.generation)
        parts = []
        async with contextlib.aclosing(self.engine.generate(asked)) as chunks:
            async for chunk in chunks:
                call.generated(chunk)
                parts.append(chunk)
        answer = merged(parts)
        return InferenceResponse(
            output_tensors(answer, request.outputs or info.default_outputs),
            info.variant,
            info.precision,
            info.random_weights,
            call.timing or Timing(0.0, 0.0, 0.0, 0.0, 1),
            parameters=outcome(answer),
        )


def _flag(request: InferenceRequest, name: str, *, default: bool) -> bool:
    value = request.parameters.get(name, default)
    if not isinstance(value, bool):
        raise invalid(f"The parameter '{name}' is not true or false.", hint="Use bool_param.")
    return value


def _loop_time(deadline: float | None) -> float | None:
    """A deadline of the monotonic clock on the clock of the event loop."""
    if deadline is None:
        return None
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
