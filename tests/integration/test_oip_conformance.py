"""What a conforming client may rely on: datatypes, versions, outputs, parameters, sizes."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc

from tests.support import bundles
from tests.support.worker import WorkerProcess, echo_request, model, raw_call

LIMIT = 8 * 1024 * 1024
Stub = inference_pb2_grpc.GRPCInferenceServiceStub

TYPED: dict[str, tuple[str, list[Any]]] = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-(2**15), 2**15 - 1]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 2**16 - 1]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", [-0.0, math.inf]),
    "FP64": ("fp64_contents", [5e-324, -math.inf]),
    "BYTES": ("bytes_contents", [b"", b"\x00\xc3\xa9"]),
}
RAW: dict[str, bytes] = {
    "BOOL": b"\x01\x00",
    "INT8": b"\x80\x7f",
    "INT16": struct.pack("<2h", -(2**15), 2**15 - 1),
    "INT32": struct.pack("<2i", -(2**31), 2**31 - 1),
    "INT64": struct.pack("<2q", -(2**63), 2**63 - 1),
    "UINT8": b"\x00\xff",
    "UINT16": struct.pack("<2H", 0, 2**16 - 1),
    "UINT32": struct.pack("<2I", 0, 2**32 - 1),
    "UINT64": struct.pack("<2Q", 0, 2**64 - 1),
    "FP16": b"\x01\x7e\x00\x80",
    "BF16": b"\xc1\x7f\x00\x80",
    "FP32": b"\x01\x00\xc0\x7f\x00\x00\x00\x80",
    "FP64": b"\x01\x00\x00\x00\x00\x00\xf8\x7f\x00\x00\x00\x00\x00\x00\x00\x80",
    "BYTES": b"\x00\x00\x00\x00\x03\x00\x00\x00\x00\xc3\xa9",
}
"""Two elements of each datatype; floats are a NaN with a payload and minus zero."""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("conformance")
    models = [model(kind.lower(), bundles.write_echo_type(folder / kind, kind)) for kind in RAW]
    models += [
        model(
            "echo", bundles.write_echo(folder / "echo"), max_batch_size=1000, max_queue_size=2000
        ),
        model("all", bundles.write_echo_all(folder / "all")),
    ]
    limits = {"max_message_bytes": LIMIT}
    with WorkerProcess(folder, models, limits=limits) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def stub(worker: WorkerProcess) -> Iterator[Stub]:
    with worker.stub() as stub:
        yield stub


def request_for(kind: str) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=kind.lower())
    request.inputs.add(name="IN", datatype=kind, shape=[1, 2])
    return request


@pytest.mark.parametrize("kind", sorted(RAW))
def test_raw_tensors_come_back_bit_for_bit(stub: Stub, kind: str) -> None:
    request = request_for(kind)
    request.raw_input_contents.append(RAW[kind])
    answer = stub.ModelInfer(request, timeout=20)
    assert list(answer.raw_output_contents) == [RAW[kind]]
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == (kind, [1, 2])


@pytest.mark.parametrize("kind", sorted(TYPED))
def test_typed_tensors_are_answered_typed(stub: Stub, kind: str) -> None:
    field, values = TYPED[kind]
    request = request_for(kind)
    getattr(request.inputs[0].contents, field).extend(values)
    answer = stub.ModelInfer(request, timeout=20)
    assert list(getattr(answer.outputs[0].contents, field)) == values
    assert not answer.raw_output_contents


def test_typed_requests_are_answered_raw_when_one_output_has_no_typed_form(stub: Stub) -> None:
    request = pb.ModelInferRequest(model_name="all")
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="all"), timeout=20)
    for tensor in metadata.inputs:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[1, 2])
        request.raw_input_contents.append(RAW[tensor.datatype])
    answer = stub.ModelInfer(request, timeout=20)
    assert len(answer.raw_output_contents) == len(answer.outputs) == len(metadata.outputs) == 13


def test_a_bytes_element_may_have_two_mebibytes(stub: Stub) -> None:
    big = bytes(range(128)) * 16384
    request = request_for("BYTES")
    request.inputs[0].contents.bytes_contents.extend([big, b""])
    answer = stub.ModelInfer(request, timeout=20)
    assert list(answer.outputs[0].contents.bytes_contents) == [big, b""]


def test_a_model_of_text_refuses_bytes_that_are_no_text(stub: Stub) -> None:
    request = request_for("BYTES")
    request.inputs[0].contents.bytes_contents.extend([b"\xff", b""])
    with pytest.raises(grpc.RpcError) as refusal:
        stub.ModelInfer(request, timeout=20)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Element 0 of the input 'IN'" in str(refusal.value.details())


@pytest.mark.parametrize("version", ["", "1"])
def test_the_one_version_may_be_named_or_left_out(stub: Stub, version: str) -> None:
    answer = stub.ModelInfer(echo_request(model_version=version), timeout=20)
    assert answer.model_version == "1"


@pytest.mark.parametrize("identifier", ["", "abc-1", "ü \x00"])
def test_the_id_is_repeated(stub: Stub, identifier: str) -> None:
    assert stub.ModelInfer(echo_request(id=identifier), timeout=20).id == identifier


def test_requested_outputs_are_given_in_the_order_of_the_request(stub: Stub) -> None:
    request = pb.ModelInferRequest(model_name="all")
    for tensor in stub.ModelMetadata(pb.ModelMetadataRequest(name="all"), timeout=20).inputs:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[1, 2])
        request.raw_input_contents.append(RAW[tensor.datatype])
    for name in ("OUT_INT8", "OUT_BOOL"):
        request.outputs.add(name=name)
    answer = stub.ModelInfer(request, timeout=20)
    assert [output.name for output in answer.outputs] == ["OUT_INT8", "OUT_BOOL"]
    assert list(answer.raw_output_contents) == [RAW["INT8"], RAW["BOOL"]]


def test_unknown_parameters_of_every_kind_are_ignored(stub: Stub) -> None:
    request = echo_request()
    request.parameters["a"].bool_param = True
    request.parameters["b"].int64_param = -1
    request.parameters["c"].string_param = "x"
    request.parameters["d"].double_param = math.nan
    request.parameters["e"].uint64_param = 2**64 - 1
    request.inputs[0].parameters["f"].bool_param = False
    assert stub.ModelInfer(request, timeout=20).outputs


def test_priority_and_timeout_are_taken_as_either_kind_of_integer(stub: Stub) -> None:
    request = echo_request()
    request.parameters["priority"].uint64_param = 1
    request.parameters["timeout"].int64_param = 10_000_000
    assert stub.ModelInfer(request, timeout=20).outputs


def test_answers_say_what_computed_them(stub: Stub) -> None:
    parameters = stub.ModelInfer(echo_request(), timeout=20).parameters
    assert parameters["variant"].string_param == "fp32"
    assert parameters["precision"].string_param == "fp32"
    assert parameters["compute_ms"].double_param > 0
    assert parameters["queue_ms"].double_param >= 0
    assert parameters["batch_rows"].int64_param >= 1
    assert "random_weights" not in parameters


def test_unknown_fields_are_ignored(worker: WorkerProcess) -> None:
    future_field = b"\xca\x3e\x03abc"  # field 1001, three bytes
    with worker.channel() as channel:
        call = raw_call(channel, "ModelInfer")
        answer = pb.ModelInferResponse.FromString(
            call(echo_request().SerializeToString() + future_field, timeout=20)
        )
    assert answer.outputs[0].name == "OUT"


def sized_request(size: int) -> bytes:
    """A serialized echo request of exactly this many bytes; an ignored field fills it up."""
    body = echo_request(rows=1000).SerializeToString()
    tag = b"\xca\x3e"
    rest = size - len(body) - len(tag) - 4
    length = bytes([rest & 127 | 128, rest >> 7 & 127 | 128, rest >> 14 & 127 | 128, rest >> 21])
    return body + tag + length + bytes(rest)


def test_a_message_of_exactly_the_limit_is_taken(worker: WorkerProcess) -> None:
    with worker.channel() as channel:
        call = raw_call(channel, "ModelInfer")
        assert call(sized_request(LIMIT), timeout=20)


def test_a_message_one_byte_over_the_limit_is_refused(worker: WorkerProcess, stub: Stub) -> None:
    with worker.channel() as channel:
        call = raw_call(channel, "ModelInfer")
        with pytest.raises(grpc.RpcError) as refusal:
            call(sized_request(LIMIT + 1), timeout=20)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ModelInfer(echo_request(), timeout=20).outputs


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_taken(stub: Stub, kind: grpc.Compression) -> None:
    answer = stub.ModelInfer(echo_request(rows=50), timeout=20, compression=kind)
    assert list(answer.raw_output_contents) == [bytes(50 * 64)]


def test_a_decompression_bomb_is_refused_by_its_inflated_size(
    worker: WorkerProcess, stub: Stub
) -> None:
    with worker.channel() as channel:
        call = raw_call(channel, "ModelInfer")
        with pytest.raises(grpc.RpcError) as refusal:
            call(bytes(10 * LIMIT), timeout=20, compression=grpc.Compression.Gzip)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ModelInfer(echo_request(), timeout=20).outputs


def test_an_answer_over_the_limit_of_the_client_fails_for_that_client_only(
    worker: WorkerProcess, stub: Stub
) -> None:
    with worker.channel(**{"grpc.max_receive_message_length": 1000}) as channel:
        small = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            small.ModelInfer(echo_request(rows=100), timeout=20)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ModelInfer(echo_request(), timeout=20).outputs


def test_metadata_describes_inputs_and_outputs(stub: Stub) -> None:
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="echo"), timeout=20)
    assert list(metadata.versions) == ["1"]
    inputs = [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs]
    outputs = [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs]
    assert inputs == [("IN", "FP32", [-1, 16])]
    assert outputs == [("OUT", "FP32", [-1, 16])]


def test_the_configuration_leaves_the_batch_out_of_the_dimensions(stub: Stub) -> None:
    config = stub.ModelConfig(pb.ModelConfigRequest(name="echo"), timeout=20).config
    assert config.max_batch_size == 1000
    assert list(config.input[0].dims) == [16]
    assert config.HasField("dynamic_batching")


def test_the_server_lives_is_ready_and_names_itself(stub: Stub) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
    assert stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
    metadata = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=20)
    assert metadata.name == "deepseek"
    assert list(metadata.extensions) == ["model_configuration", "statistics", "model_repository"]


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("echo", "", True), ("echo", "1", True), ("echo", "9", False), ("nope", "", False)],
)
def test_model_readiness_answers_without_errors(
    stub: Stub, name: str, version: str, ready: bool
) -> None:
    request = pb.ModelReadyRequest(name=name, version=version)
    assert stub.ModelReady(request, timeout=20).ready is ready


def test_the_index_lists_every_model(stub: Stub) -> None:
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=20)
    states = {entry.name: (entry.version, entry.state, entry.reason) for entry in index.models}
    assert states["echo"] == ("1", "READY", "")
    assert len(states) == len(RAW) + 2


def test_statistics_grow_with_each_inference(stub: Stub) -> None:
    def read() -> pb.ModelStatistics:
        request = pb.ModelStatisticsRequest(name="echo")
        return stub.ModelStatistics(request, timeout=20).model_stats[0]

    before = read()
    for _ in range(3):
        stub.ModelInfer(echo_request(rows=2), timeout=20)
    after = read()
    assert after.version == "1"
    assert after.inference_count == before.inference_count + 6
    assert after.inference_stats.success.count == before.inference_stats.success.count + 3
    assert after.inference_stats.queue.count == before.inference_stats.queue.count + 3
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    everything = stub.ModelStatistics(pb.ModelStatisticsRequest(), timeout=20).model_stats
    assert len(everything) == len(RAW) + 2


def test_clients_may_ping_often_without_being_sent_away(worker: WorkerProcess) -> None:
    options = {
        "grpc.keepalive_time_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
    }
    with worker.channel(**options) as channel:
        assert Stub(channel).ServerLive(pb.ServerLiveRequest(), timeout=20).live
