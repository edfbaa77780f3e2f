"""gRPC statuses become the project's exceptions."""

from __future__ import annotations

import pytest
from deepseek._rpc_errors import from_rpc_error
from deepseek_api.errors import (
    DeepseekError,
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
    QueueFullError,
)
from deepseek_protos import rpc_status_pb2
from grpc import StatusCode as Code


class Failure:
    def __init__(self, code: Code, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> Code:
        return self._code

    def details(self) -> str:
        return self._details


def detail(name: str, content: bytes) -> rpc_status_pb2.Detail:
    return rpc_status_pb2.Detail(type_url=f"type.googleapis.com/google.rpc.{name}", value=content)


def translate(
    code: Code, details: str, *, retry_s: float | None = None, reason: str | None = None
) -> DeepseekError:
    packed: list[rpc_status_pb2.Detail] = []
    if reason is not None:
        info = rpc_status_pb2.ErrorInfo(reason=reason)
        packed.append(detail("ErrorInfo", info.SerializeToString()))
    if retry_s is not None:
        delay = rpc_status_pb2.Duration(seconds=int(retry_s), nanos=int(retry_s % 1 * 1e9))
        retry = rpc_status_pb2.RetryInfo(retry_delay=delay)
        packed.append(detail("RetryInfo", retry.SerializeToString()))
    trailing: list[tuple[str, str | bytes]] = [("other", "x")]
    if packed:
        status = rpc_status_pb2.Status(details=packed).SerializeToString()
        trailing.append(("grpc-status-details-bin", status))
    return from_rpc_error(Failure(code, details), url="here:1", trailing=trailing)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Code.INVALID_ARGUMENT, ErrorCode.INVALID_ARGUMENT),
        (Code.NOT_FOUND, ErrorCode.NOT_FOUND),
        (Code.RESOURCE_EXHAUSTED, ErrorCode.RESOURCE_EXHAUSTED),
        (Code.UNIMPLEMENTED, ErrorCode.UNIMPLEMENTED),
        (Code.FAILED_PRECONDITION, ErrorCode.FAILED_PRECONDITION),
        (Code.INTERNAL, ErrorCode.INTERNAL),
        (Code.UNKNOWN, ErrorCode.INTERNAL),
        (Code.DATA_LOSS, ErrorCode.INTERNAL),
        (Code.OUT_OF_RANGE, ErrorCode.INVALID_ARGUMENT),
        (Code.UNAUTHENTICATED, ErrorCode.FAILED_PRECONDITION),
        (Code.ABORTED, ErrorCode.UNAVAILABLE),
    ],
    ids=lambda value: value.name,
)
def test_status_keeps_its_code_and_sentence(status: Code, code: ErrorCode) -> None:
    error = translate(status, "The server's sentence.")
    assert isinstance(error, InferenceError)
    assert (error.code, error.message) == (code, "The server's sentence.")


def test_a_call_that_the_server_ended_may_be_sent_again() -> None:
    error = translate(Code.CANCELLED, "CANCELLED")
    assert isinstance(error, EngineUnavailableError)
    assert error.reason == "Cancelled"


def test_a_full_queue_carries_the_time_to_wait() -> None:
    error = translate(Code.UNAVAILABLE, "Full.", retry_s=1.5, reason="QueueFull")
    assert isinstance(error, QueueFullError)
    assert error.retry_after_s == 1.5


def test_a_restarting_engine_is_not_a_full_queue() -> None:
    error = translate(Code.UNAVAILABLE, "It restarts.", retry_s=1.0, reason="EngineUnavailable")
    assert type(error) is EngineUnavailableError


def test_the_reason_of_the_server_is_kept() -> None:
    error = translate(Code.INVALID_ARGUMENT, "The input 'x' is missing.", reason="InvalidInput")
    assert error.reason == "InvalidInput"


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ("failed to connect to all addresses; last error: refused", "ServerUnreachable"),
        ("DNS resolution failed for nowhere:1", "ServerUnreachable"),
        ("Ssl handshake failed: certificate verify failed", "InsecureConnection"),
        ("The engine is starting.", "EngineUnavailable"),
    ],
)
def test_unavailable_says_what_is_unavailable(details: str, reason: str) -> None:
    error = translate(Code.UNAVAILABLE, details)
    assert isinstance(error, EngineUnavailableError)
    assert error.reason == reason


def test_a_deadline_of_the_client_names_the_server_and_the_way_out() -> None:
    error = translate(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert error.code is ErrorCode.DEADLINE_EXCEEDED
    assert "here:1" in error.message
    assert error.hint is not None
