"""Bytes that nobody planned: never an internal error, and the next good request is answered."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import grpc
import pytest
from deepseek_protos import inference_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import bundles
from tests.support.worker import WorkerProcess, echo_request, model, raw_call

FUZZ = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("fuzz")
    models = [
        model("echo", bundles.write_echo(folder / "echo")),
        model("words", bundles.write_echo_type(folder / "words", "BYTES")),
        model("colours", bundles.write_classifier(folder / "colours")),
    ]
    with WorkerProcess(folder, models) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def call(worker: WorkerProcess) -> Iterator[Callable[..., bytes]]:
    with worker.channel() as channel:
        yield raw_call(channel, "ModelInfer")


def words_request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="words")
    request.inputs.add(name="IN", datatype="BYTES", shape=[1, 2])
    request.raw_input_contents.append(struct.pack("<I", 2) + b"ab" + struct.pack("<I", 0))
    return request


def typed_request() -> pb.ModelInferRequest:
    request = echo_request(id="x")
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([1.0] * 16)
    request.parameters["priority"].int64_param = 1
    request.outputs.add(name="OUT")
    return request


SEEDS = [m.SerializeToString() for m in (echo_request(), words_request(), typed_request())]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message with bytes changed, removed, repeated or cut off."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "delete", "insert", "repeat"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and data:
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "cut":
            del data[at:]
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 8))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 16))]
    return bytes(data)


@st.composite
def structured(draw: st.DrawFn) -> bytes:
    """A message of the right type with fields that need not fit each other."""
    names = st.sampled_from(["IN", "OUT", "", "x", "image", "é\x00"])
    model = draw(st.sampled_from(["echo", "words", "colours", "", "nope"]))
    request = pb.ModelInferRequest(model_name=model)
    request.model_version = draw(st.sampled_from(["", "", "1", "2", "-1", "x"]))
    kinds = ["FP32", "BYTES", "UINT8", "BOOL", "FP16", "", "fp32"]
    sizes = st.sampled_from([-1, 0, 1, 2, 16, 2**31, 2**62])
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(name=draw(names), datatype=draw(st.sampled_from(kinds)))
        tensor.shape.extend(draw(st.lists(sizes, max_size=4)))
        if draw(st.booleans()):
            tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=4), max_size=3)))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=80), max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        request.outputs.add(name=draw(names))
    parameter = draw(st.sampled_from(["priority", "timeout", "top_k", "other"]))
    choice = request.parameters[parameter]
    kind = draw(st.sampled_from(["bool_param", "int64_param", "string_param", "double_param", ""]))
    if kind:
        values = {"bool_param": True, "int64_param": -1, "string_param": "x"}
        setattr(choice, kind, values.get(kind, float("nan")))
    return request.SerializeToString()


def code_of(call: Callable[..., bytes], data: bytes) -> grpc.StatusCode:
    try:
        call(data, timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # a mutated 'timeout' may be a microsecond
}


@FUZZ
@given(data=mutated())
def test_mutated_messages_are_answered_precisely(call: Callable[..., bytes], data: bytes) -> None:
    assert code_of(call, data) in EXPECTED


@FUZZ
@given(data=structured())
def test_messages_that_make_no_sense_are_answered_precisely(
    call: Callable[..., bytes], data: bytes
) -> None:
    assert code_of(call, data) in EXPECTED


@FUZZ
@given(data=st.binary(max_size=200))
def test_random_bytes_are_answered_precisely(call: Callable[..., bytes], data: bytes) -> None:
    assert code_of(call, data) in EXPECTED


def test_good_requests_are_answered_afterwards(
    worker: WorkerProcess, call: Callable[..., bytes]
) -> None:
    for seed in SEEDS:
        assert code_of(call, seed) is grpc.StatusCode.OK
    assert worker.metrics()["deepseek_engine_restarts_total"] == 0
