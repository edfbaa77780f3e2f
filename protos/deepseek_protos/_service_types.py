"""Writes the type information of generated service stubs.

Why it exists: the gRPC compiler writes stubs without types, and this project checks every call. It
runs only while generating; nothing that serves imports it.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2

HEADER = '''# ruff: noqa
# fmt: off
"""Types of the generated stubs; written by deepseek_protos.generate."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio

from deepseek_protos import {module} as _messages
'''


def service_stub_types(descriptor_set: bytes) -> dict[str, str]:
    """The text of a ``.pyi`` file, by file name, for every ``.proto`` file with a service."""
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file
    return {name: text for file in files if file.service for name, text in [_stub_types(file)]}


def _stub_types(file: descriptor_pb2.FileDescriptorProto) -> tuple[str, str]:
    stem = file.name.rpartition("/")[2].removesuffix(".proto")
    parts = [HEADER.format(module=f"{stem}_pb2")]
    for service in file.service:
        parts += [_client(service, is_async=False), _client(service, is_async=True)]
        parts += [_servicer(service), _registration(service)]
    return f"{stem}_pb2_grpc.pyi", "\n".join(parts)


def _message(type_name: str) -> str:
    return f"_messages.{type_name.rpartition('.')[2]}"


def _client(service: descriptor_pb2.ServiceDescriptorProto, *, is_async: bool) -> str:
    module = "grpc.aio" if is_async else "grpc"
    name = f"{service.name}{'AsyncStub' if is_async else 'Stub'}"
    note = "    # For type checkers only: the class at run time is the one above.\n"
    lines = [f"class {name}:\n{note if is_async else ''}"]
    channel = "grpc.aio.Channel" if is_async else "grpc.Channel | grpc.aio.Channel"
    lines.append(f"    def __init__(self, channel: {channel}) -> None: ...\n")
    for method in service.method:
        kind = {
            (False, False): "UnaryUnaryMultiCallable",
            (False, True): "UnaryStreamMultiCallable",
            (True, False): "StreamUnaryMultiCallable",
            (True, True): "StreamStreamMultiCallable",
        }[method.client_streaming, method.server_streaming]
        types = f"{_message(method.input_type)}, {_message(method.output_type)}"
        lines.append(f"    {method.name}: {module}.{kind}[{types}]\n")
    return "".join(lines)


def _servicer(service: descriptor_pb2.ServiceDescriptorProto) -> str:
    lines = [f"class {service.name}Servicer:\n"]
    for method in service.method:
        request, response = _message(method.input_type), _message(method.output_type)
        taken = f"AsyncIterator[{request}]" if method.client_streaming else request
        coroutine = "" if method.server_streaming else "async "
        given = f"AsyncIterator[{response}]" if method.server_streaming else response
        lines.append(
            f"    {coroutine}def {method.name}(\n"
            f"        self,\n"
            f"        request{'_iterator' if method.client_streaming else ''}: {taken},\n"
            f"        context: grpc.aio.ServicerContext[{request}, {response}],\n"
            f"    ) -> {given}: ...\n"
        )
    return "".join(lines)


def _registration(service: descriptor_pb2.ServiceDescriptorProto) -> str:
    return (
        f"def add_{service.name}Servicer_to_server(\n"
        f"    servicer: {service.name}Servicer, server: grpc.aio.Server | grpc.Server\n"
        f") -> None: ...\n"
    )
