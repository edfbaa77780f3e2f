"""gRPC statuses back into the project's exceptions.

Why it exists: a caller of the SDK handles :class:`deepseek_api.errors.DeepseekError` and nothing
else, whether the model ran in his process or behind a network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from deepseek_api.errors import (
    DeepseekError,
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
    QueueFullError,
)
from deepseek_protos import rpc_status_pb2

_CODES = {
    grpc.StatusCode.OUT_OF_RANGE: ErrorCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS: ErrorCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED: ErrorCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAUTHENTICATED: ErrorCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED: ErrorCode.UNAVAILABLE,
}
"""Statuses that have no code of their own; the rest keep their name or become INTERNAL."""

_UNREACHABLE = (
    "failed to connect to all addresses",
    "connection refused",
    "dns resolution failed",
    "name resolution failure",
    "empty address list",
    "no route to host",
)
_ERROR_INFO, _RETRY_INFO = "google.rpc.ErrorInfo", "google.rpc.RetryInfo"


class RpcFailure(Protocol):
    """What both the synchronous and the asynchronous gRPC error offer."""

    def code(self) -> grpc.StatusCode:
        """The status."""

    def details(self) -> str | None:
        """The sentence of the server."""


@dataclass(frozen=True, slots=True)
class _Details:
    """What a server of this project says of a failure besides code and sentence."""

    reason: str | None = None
    retry_after_s: float | None = None


def from_rpc_error(error: RpcFailure, *, url: str, trailing: Iterable[Any]) -> DeepseekError:
    """The exception that stands for a failed call.

    Args:
        error: the gRPC error.
        url: the server's address, for messages.
        trailing: the call's trailing metadata, pairs of key and value.
    """
    status, sentence = error.code(), (error.details() or "").strip()
    details = _read_details(trailing)
    if status is grpc.StatusCode.UNAVAILABLE:
        return _unavailable(sentence, url, details)
    if status is grpc.StatusCode.CANCELLED:
        return EngineUnavailableError(
            f"The call of the server at {url} ended before its answer.",
            hint="Send it again, unless this client was closed.",
            reason="Cancelled",
        )
    code = _CODES.get(status) or ErrorCode.__members__.get(status.name, ErrorCode.INTERNAL)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED and sentence in ("", "Deadline Exceeded"):
        return InferenceError(
            f"The server at {url} did not answer in time.",
            code=code,
            hint="Allow more time with 'timeout', or send smaller batches.",
            reason="DeadlineExceeded",
        )
    message = sentence or f"The server answered {status.name}."
    return InferenceError(message, code=code, reason=details.reason)


def _unavailable(sentence: str, url: str, details: _Details) -> DeepseekError:
    if details.reason == QueueFullError.default_reason and details.retry_after_s is not None:
        return QueueFullError(sentence, retry_after_s=details.retry_after_s)
    if details.reason is not None:
        return EngineUnavailableError(sentence, reason=details.reason)
    lowered = sentence.lower()
    if "ssl" in lowered or "handshake" in lowered or "certificate" in lowered:
        return EngineUnavailableError(
            f"No secure connection to {url} could be made.",
            hint="Check that both sides use TLS and that the authority file is the right one.",
            reason="InsecureConnection",
        )
    if any(marker in lowered for marker in _UNREACHABLE):
        return EngineUnavailableError(
            f"No server answers at {url}.",
            hint="Start one with 'deepseek serve -f FILE', or check the address.",
            reason="ServerUnreachable",
        )
    return EngineUnavailableError(sentence or f"The server at {url} cannot answer now.")


def _read_details(trailing: Iterable[Any]) -> _Details:
    reason, retry_after_s = None, None
    for key, value in trailing:
        if key != "grpc-status-details-bin" or not isinstance(value, bytes):
            continue
        for detail in rpc_status_pb2.Status.FromString(value).details:
            if detail.type_url.endswith(_ERROR_INFO):
                reason = rpc_status_pb2.ErrorInfo.FromString(detail.value).reason
            elif detail.type_url.endswith(_RETRY_INFO):
                delay = rpc_status_pb2.RetryInfo.FromString(detail.value).retry_delay
                retry_after_s = delay.seconds + delay.nanos / 1e9
    return _Details(reason, retry_after_s)
