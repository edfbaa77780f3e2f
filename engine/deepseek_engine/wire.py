"""The byte format between a front end and an engine process.

Why it exists: both ends must agree on one header, and neither may unpickle what it receives. A
message is one MessagePack header frame followed by the raw bytes of each tensor, one frame a
tensor, in the order of the header. This module knows bytes only: no sockets, no NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from deepseek_api.errors import (
    DeepseekError,
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
    QueueFullError,
)

from deepseek_engine.generation.requests import GenerationChunk, GenerationRequest
from deepseek_engine.messages import (
    Buffer,
    Heartbeat,
    InferenceRequest,
    InferenceResponse,
    Tensor,
    TensorSpec,
    Timing,
)

__all__ = [
    "Answer",
    "Cancel",
    "Chunk",
    "ClientMessage",
    "EngineMessage",
    "Failure",
    "Generate",
    "HeartbeatMessage",
    "Hello",
    "Infer",
    "Taken",
    "decode_client",
    "decode_engine",
    "decode_request",
    "decode_response",
    "encode",
    "encode_failure",
    "encode_request",
    "encode_response",
    "error_of",
]


class Hello(msgspec.Struct, tag="hello", array_like=True):
    """The first message of a front end: send heartbeats to me."""


class Infer(msgspec.Struct, tag="infer", array_like=True):
    """Run one request; one frame a tensor follows."""

    id: int
    model: str
    tensors: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    request_id: str
    deadline: float | None
    priority: int
    parameters: dict[str, Any]


class Cancel(msgspec.Struct, tag="cancel", array_like=True):
    """Withdraw a request."""

    id: int


class Generate(msgspec.Struct, tag="generate", array_like=True):
    """Generate; any number of chunks answer, the last of which has a finish reason."""

    id: int
    request: GenerationRequest


class Taken(msgspec.Struct, tag="taken", array_like=True):
    """A chunk was read, so that another one may be sent: what is unread stays bounded."""

    id: int


class HeartbeatMessage(msgspec.Struct, tag="heartbeat", array_like=True):
    """The engine lives."""

    heartbeat: Heartbeat


class Answer(msgspec.Struct, tag="answer", array_like=True):
    """The answer to one request; one frame a tensor follows."""

    id: int
    tensors: tuple[TensorSpec, ...]
    variant: str
    precision: str
    random_weights: bool
    timing: Timing
    parameters: dict[str, bool | int | float | str]


class Chunk(msgspec.Struct, tag="chunk", array_like=True):
    """The next part of a generated answer; the last one ends it."""

    id: int
    chunk: GenerationChunk


class Failure(msgspec.Struct, tag="failure", array_like=True):
    """A request failed."""

    id: int
    code: str
    reason: str
    message: str
    hint: str | None
    retry_after_s: float | None


ClientMessage = Hello | Infer | Generate | Taken | Cancel
"""What a front end sends."""
EngineMessage = HeartbeatMessage | Answer | Chunk | Failure
"""What an engine sends."""

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_engine_decoder: msgspec.msgpack.Decoder[EngineMessage] = msgspec.msgpack.Decoder(EngineMessage)


def encode(message: ClientMessage | EngineMessage) -> bytes:
    """The header frame of a message."""
    return _encoder.encode(message)


def decode_client(header: Buffer) -> ClientMessage:
    """Read a front end's header frame.

    Raises:
        msgspec.DecodeError: the bytes are not such a header.
    """
    return _decoded(_client_decoder, header)


def decode_engine(header: Buffer) -> EngineMessage:
    """Read an engine's header frame.

    Raises:
        msgspec.DecodeError: the bytes are not such a header.
    """
    return _decoded(_engine_decoder, header)


def _decoded(decoder: msgspec.msgpack.Decoder[T], header: Buffer) -> T:
    try:
        return decoder.decode(header)
    except UnicodeDecodeError as error:
        # msgspec checks the text of keys only when it looks at them, and lets this one through.
        raise msgspec.DecodeError("a text of the header is not UTF-8") from error


def encode_request(number: int, request: InferenceRequest) -> list[Buffer]:
    """The frames of a request."""
    header = Infer(
        id=number,
        model=request.model,
        tensors=_specs(request.inputs),
        outputs=request.outputs,
        request_id=request.id,
        deadline=request.deadline,
        priority=request.priority,
        parameters=dict(request.parameters),
    )
    return [encode(header), *(tensor.data for tensor in request.inputs)]


def decode_request(header: Infer, frames: Sequence[Buffer]) -> InferenceRequest:
    """The request of a header and its tensor frames, without a copy.

    Raises:
        ValueError: the number of frames differs from the header's.
    """
    return InferenceRequest(
        model=header.model,
        inputs=_tensors(header.tensors, frames),
        outputs=header.outputs,
        id=header.request_id,
        deadline=header.deadline,
        priority=header.priority,
        parameters=header.parameters,
    )


def encode_response(number: int, response: InferenceResponse) -> list[Buffer]:
    """The frames of an answer."""
    header = Answer(
        id=number,
        tensors=_specs(response.outputs),
        variant=response.variant,
        precision=response.precision,
        random_weights=response.random_weights,
        timing=response.timing,
        parameters=dict(response.parameters),
    )
    return [encode(header), *(tensor.data for tensor in response.outputs)]


def decode_response(header: Answer, frames: Sequence[Buffer]) -> InferenceResponse:
    """The answer of a header and its tensor frames, without a copy.

    Raises:
        ValueError: the number of frames differs from the header's.
    """
    return InferenceResponse(
        outputs=_tensors(header.tensors, frames),
        variant=header.variant,
        precision=header.precision,
        random_weights=header.random_weights,
        timing=header.timing,
        parameters=header.parameters,
    )


def encode_failure(number: int, error: DeepseekError) -> list[Buffer]:
    """The frame of a failure."""
    retry_after_s = error.retry_after_s if isinstance(error, QueueFullError) else None
    return [
        encode(
            Failure(
                id=number,
                code=str(error.code),
                reason=error.reason,
                message=error.message,
                hint=error.hint,
                retry_after_s=retry_after_s,
            )
        )
    ]


def error_of(failure: Failure) -> DeepseekError:
    """The error that a failure describes, of the same kind as in the engine process."""
    if failure.retry_after_s is not None:
        return QueueFullError(
            failure.message, retry_after_s=failure.retry_after_s, hint=failure.hint
        )
    code = ErrorCode(failure.code)
    if code is ErrorCode.UNAVAILABLE:
        return EngineUnavailableError(failure.message, hint=failure.hint, reason=failure.reason)
    return InferenceError(failure.message, code=code, hint=failure.hint, reason=failure.reason)


def _specs(tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)


def _tensors(specs: Sequence[TensorSpec], frames: Sequence[Buffer]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(spec.name, spec.datatype, spec.shape, data)
        for spec, data in zip(specs, frames, strict=True)
    )
