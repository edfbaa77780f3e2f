"""Clients that other people wrote work unmodified."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.utils import InferenceServerException

from tests.support import bundles
from tests.support.worker import WorkerProcess, model

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("clients")
    models = [
        model("echo", bundles.write_echo(folder / "echo")),
        model("embed", bundles.write_embedding(folder / "embed")),
    ]
    with WorkerProcess(folder, models) as process:
        yield process.wait_ready()


def triton_input(values: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput("IN", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return tensor


def test_the_triton_client_infers(worker: WorkerProcess) -> None:
    values = np.arange(32, dtype=np.float32).reshape(2, 16)
    with triton.InferenceServerClient(worker.target) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("echo")
        outputs = [triton.InferRequestedOutput("OUT")]
        result = client.infer(
            "echo", [triton_input(values)], outputs=outputs, request_id="7", priority=1,
            timeout=10_000_000, client_timeout=20.0,
        )  # fmt: skip
    assert np.array_equal(result.as_numpy("OUT"), values)
    assert result.get_response().id == "7"


def test_the_triton_client_sends_text(worker: WorkerProcess) -> None:
    with triton.InferenceServerClient(worker.target) as client:
        name = client.get_model_metadata("embed").inputs[0].name
        texts = np.array([b"the cat sat", b"a dog ran"], dtype=np.object_)
        tensor = triton.InferInput(name, [2], "BYTES")
        tensor.set_data_from_numpy(texts)
        result = client.infer("embed", [tensor])
        output = result.get_response().outputs[0]
    assert result.as_numpy(output.name).shape == (2, 8)


def test_the_triton_client_reads_what_load_generators_read(worker: WorkerProcess) -> None:
    with triton.InferenceServerClient(worker.target) as client:
        assert client.get_server_metadata().name == "deepseek"
        assert client.get_model_config("echo").config.max_batch_size > 0
        before = client.get_inference_statistics("echo").model_stats[0]
        client.infer("echo", [triton_input(np.zeros((1, 16), np.float32))])
        after = client.get_inference_statistics("echo").model_stats[0]
        names = {entry.name for entry in client.get_model_repository_index().models}
    assert after.inference_stats.queue.count == before.inference_stats.queue.count + 1
    assert after.version.isdigit()
    assert names == {"echo", "embed"}


def test_the_triton_client_shows_our_sentences(worker: WorkerProcess) -> None:
    with (
        triton.InferenceServerClient(worker.target) as client,
        pytest.raises(InferenceServerException, match=r"no model 'nope'"),
    ):
        client.infer("nope", [triton_input(np.zeros((1, 16), np.float32))])


async def test_the_asynchronous_triton_client_infers(worker: WorkerProcess) -> None:
    values = np.ones((1, 16), np.float32)
    async with triton_aio.InferenceServerClient(worker.target) as client:
        result = await client.infer("echo", [triton_input(values)])
    assert np.array_equal(result.as_numpy("OUT"), values)


def test_a_reflection_client_finds_services_and_describes_messages(worker: WorkerProcess) -> None:
    with worker.channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        file = database.FindFileContainingSymbol(SERVICE)
        message = database.FindFileContainingSymbol("inference.ModelStatistics")
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= services
    methods = [method.name for method in file.service[0].method]
    assert "ModelInfer" in methods
    assert len(methods) == 20
    assert "ModelStatistics" in {entry.name for entry in message.message_type}


@pytest.mark.parametrize("symbol", ["grpc.reflection.v1.ServerReflection", SERVICE])
def test_reflection_is_offered_as_v1_too(worker: WorkerProcess, symbol: str) -> None:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    with worker.channel() as channel:
        call = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = list(call(iter([request]), timeout=20))
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in answer.file_descriptor_response.file_descriptor_proto
    ]
    found = {f"{file.package}.{service.name}" for file in files for service in file.service}
    assert symbol in found


def test_reflection_says_when_a_symbol_is_unknown(worker: WorkerProcess) -> None:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing")
    with worker.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = list(stub.ServerReflectionInfo(iter([request]), timeout=20))
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("service", ["", SERVICE, "echo", "embed"])
def test_health_is_known_of_the_server_and_of_each_model(
    worker: WorkerProcess, service: str
) -> None:
    with worker.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_name_is_not_found(worker: WorkerProcess) -> None:
    with worker.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=20)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="nope"), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert "no service 'nope'" in str(refusal.value.details())
