"""Errors as gRPC statuses.

Why it exists: the error tree of this project does not know gRPC; this is the one place that maps it
to status codes and to the details of ``grpc-status-details-bin``.
"""

from __future__ import annotations

import math

import grpc
from deepseek_api.errors import DeepseekError, EngineUnavailableError, ErrorCode, QueueFullError
from deepseek_protos import rpc_status_pb2

__all__ = ["DETAILS_KEY", "status_code", "trailing_details"]

DETAILS_KEY = "grpc-status-details-bin"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
_DOMAIN = "deepseek.ai"
_ENGINE_RETRY_S = 1.0
"""An engine that restarts needs about this long; callers are told to wait for it."""

_NANOS = 1_000_000_000


def status_code(code: ErrorCode) -> grpc.StatusCode:
    """The gRPC status code of the same name."""
    return grpc.StatusCode[code.value]


def trailing_details(error: DeepseekError) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata with the error's reason and, where it is known, when to try again."""
    info = rpc_status_pb2.ErrorInfo(reason=error.reason, domain=_DOMAIN)
    details = [rpc_status_pb2.Detail(type_url=_ERROR_INFO, value=info.SerializeToString())]
    if isinstance(error, QueueFullError):
        details.append(_retry_info(error.retry_after_s))
    elif isinstance(error, EngineUnavailableError):
        details.append(_retry_info(_ENGINE_RETRY_S))
    # The sentence is the plain status already; sending it twice could pass the limit of metadata.
    status = rpc_status_pb2.Status(code=status_code(error.code).value[0], details=details)
    return ((DETAILS_KEY, status.SerializeToString()),)


def _retry_info(delay_s: float) -> rpc_status_pb2.Detail:
    nanos = math.ceil(delay_s * _NANOS)
    delay = rpc_status_pb2.Duration(seconds=nanos // _NANOS, nanos=nanos % _NANOS)
    info = rpc_status_pb2.RetryInfo(retry_delay=delay)
    return rpc_status_pb2.Detail(type_url=_RETRY_INFO, value=info.SerializeToString())
