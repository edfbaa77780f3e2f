"""Server reflection, in its versions v1 and v1alpha.

Why it exists: the messages of this project live in a pool of their own and the library's in the
default pool, so reflection needs one pool with both. The library has the version v1alpha only; v1
has the same messages in another package, so its description is derived and its bytes are the same.
"""

from __future__ import annotations

import grpc
import grpc.aio
from deepseek_protos import inference_pb2, vllm_engine_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

__all__ = ["SERVICES", "add_reflection"]

_V1ALPHA = "grpc.reflection.v1alpha"
_V1 = "grpc.reflection.v1"
INFERENCE_SERVICE = "inference.GRPCInferenceService"
VLLM_SERVICE = "vllm.grpc.engine.VllmEngine"
HEALTH_SERVICE = "grpc.health.v1.Health"
SERVICES = (
    INFERENCE_SERVICE,
    VLLM_SERVICE,
    HEALTH_SERVICE,
    f"{_V1}.ServerReflection",
    f"{_V1ALPHA}.ServerReflection",
)
"""Services that reflection lists."""


def add_reflection(server: grpc.aio.Server) -> None:
    """Answer reflection calls on a server that has not started yet."""
    servicer = ReflectionServicer(service_names=SERVICES, pool=_pool())
    for package in (_V1, _V1ALPHA):
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    f"{package}.ServerReflection", {"ServerReflectionInfo": handler}
                )
            ]
        )


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()
    for file in (
        inference_pb2.DESCRIPTOR,
        vllm_engine_pb2.DESCRIPTOR,
        health_pb2.DESCRIPTOR,
        reflection_pb2.DESCRIPTOR,
    ):
        _add(pool, file, added)
    pool.Add(_v1_file())
    return pool


def _add(pool: descriptor_pool.DescriptorPool, file: FileDescriptor, added: set[str]) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(pool, dependency, added)
    pool.AddSerializedFile(file.serialized_pb)


def _v1_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = file.name.replace("v1alpha", "v1")
    file.package = _V1
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(_V1ALPHA, _V1)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(_V1ALPHA, _V1)
        method.output_type = method.output_type.replace(_V1ALPHA, _V1)
    return file
