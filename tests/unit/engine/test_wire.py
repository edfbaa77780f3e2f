"""The byte format between a front end and an engine."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
from deepseek_api.errors import (
    DeepseekError,
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
    QueueFullError,
)
from deepseek_engine import wire
from deepseek_engine.messages import (
    Heartbeat,
    InferenceRequest,
    InferenceResponse,
    ModelInfo,
    ModelState,
    ModelStats,
    Tensor,
    Timing,
)
from hypothesis import example, given
from hypothesis import strategies as st

TENSORS = st.lists(
    st.builds(
        Tensor,
        name=st.text(max_size=8),
        datatype=st.sampled_from(["FP32", "BYTES"]),
        shape=st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
        data=st.binary(max_size=64),
    ),
    max_size=4,
).map(tuple)
PARAMETERS = st.dictionaries(
    st.text(max_size=8),
    st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    max_size=4,
)


@given(
    inputs=TENSORS,
    outputs=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    deadline=st.none() | st.floats(0, 1e9),
    priority=st.integers(0, 2**31),
    parameters=PARAMETERS,
)
def test_a_request_survives(
    inputs: tuple[Tensor, ...],
    outputs: tuple[str, ...],
    deadline: float | None,
    priority: int,
    parameters: dict[str, bool | int | float | str],
) -> None:
    request = InferenceRequest(
        "m", inputs, outputs, "id", deadline=deadline, priority=priority, parameters=parameters
    )
    header, *frames = wire.encode_request(7, request)
    message = wire.decode_client(header)
    assert isinstance(message, wire.Infer)
    assert message.id == 7
    assert wire.decode_request(message, frames) == request


@given(outputs=TENSORS, random_weights=st.booleans())
def test_a_response_survives(outputs: tuple[Tensor, ...], random_weights: bool) -> None:
    response = InferenceResponse(outputs, "v", "int8", random_weights, Timing(1, 2, 3, 4, 5))
    header, *frames = wire.encode_response(9, response)
    message = wire.decode_engine(header)
    assert isinstance(message, wire.Answer)
    assert wire.decode_response(message, frames) == response


@pytest.mark.parametrize(
    "error",
    [
        InferenceError("m", code=ErrorCode.INVALID_ARGUMENT, hint="h", reason="R"),
        InferenceError("m", code=ErrorCode.NOT_FOUND),
        EngineUnavailableError("m", hint="h", reason="ModelLoading"),
        QueueFullError("m", retry_after_s=1.5, hint="h"),
        DeepseekError("m"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_meaning(error: DeepseekError) -> None:
    (header,) = wire.encode_failure(3, error)
    message = wire.decode_engine(header)
    assert isinstance(message, wire.Failure)
    found = wire.error_of(message)
    assert (found.code, found.reason, str(found)) == (error.code, error.reason, str(error))
    assert getattr(found, "retry_after_s", None) == getattr(error, "retry_after_s", None)


def test_a_heartbeat_survives() -> None:
    heartbeat = Heartbeat(
        sent_at=1.5,
        device_busy_since=None,
        models={"m": ModelInfo(name="m", state=ModelState.LOADING, stage="opening", progress=0.5)},
        stats={"m": ModelStats(waiting=3, releases={"full": 2}, batch_rows={1: 4})},
    )
    assert wire.decode_engine(wire.encode(wire.HeartbeatMessage(heartbeat))) == (
        wire.HeartbeatMessage(heartbeat)
    )


def test_a_frame_too_many_or_too_few_is_refused() -> None:
    request = InferenceRequest("m", (Tensor("a", "FP32", (1,), b"1234"),))
    header, frame = wire.encode_request(1, request)
    message = wire.decode_client(header)
    assert isinstance(message, wire.Infer)
    for frames in ([], [frame, frame]):
        with pytest.raises(ValueError, match="zip"):
            wire.decode_request(message, frames)


@given(st.binary(max_size=64))
@example(b"\x91\xa5\x00\x00\x00\x00\x80")  # a key that is not UTF-8
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    for decode in (wire.decode_client, wire.decode_engine):
        try:
            decode(noise)
        except msgspec.DecodeError:
            continue


HEAVY = ("numpy", "onnxruntime", "torch", "transformers", "tokenizers", "PIL", "pydantic")


def test_what_front_ends_import_loads_no_runtime() -> None:
    script = (
        "import sys, deepseek_engine.client\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
