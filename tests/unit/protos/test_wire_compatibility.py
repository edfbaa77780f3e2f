"""The messages and calls are those that Triton's clients know."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from deepseek_protos import inference_pb2, inference_pb2_grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

SERVICE = "GRPCInferenceService"


def own_files() -> list[Any]:
    return [inference_pb2.DESCRIPTOR, *inference_pb2.DESCRIPTOR.dependencies] + [
        file
        for dependency in inference_pb2.DESCRIPTOR.dependencies
        for file in dependency.dependencies
    ]


def messages(files: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(message: Any) -> None:
        found[message.full_name] = message
        for nested in message.nested_types:
            visit(nested)

    for file in files:
        for message in file.message_types_by_name.values():
            visit(message)
    return found


def enums(files: list[Any]) -> dict[str, dict[str, int]]:
    top = [enum for file in files for enum in file.enum_types_by_name.values()]
    nested = [enum for message in messages(files).values() for enum in message.enum_types]
    return {e.full_name: {v.name: v.number for v in e.values} for e in [*top, *nested]}


def field_facts(field: FieldDescriptor) -> tuple[Any, ...]:
    target = field.message_type or field.enum_type
    return (
        field.name,
        field.type,
        field.is_repeated,
        field.has_presence,
        target.full_name if target is not None else None,
        field.containing_oneof.name if field.containing_oneof is not None else None,
    )


THEIRS = messages([service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR])
OURS = messages(own_files())


def test_both_sides_have_the_same_messages() -> None:
    assert OURS.keys() == THEIRS.keys()


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_a_message_has_the_same_fields(name: str) -> None:
    theirs = {field.number: field_facts(field) for field in THEIRS[name].fields}
    assert {field.number: field_facts(field) for field in OURS[name].fields} == theirs


def test_both_sides_have_the_same_enums() -> None:
    theirs = enums([service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR])
    assert enums(own_files()) == theirs


def calls(file: Any) -> dict[str, tuple[str, bool, str, bool]]:
    proto = descriptor_pb2.ServiceDescriptorProto()
    file.services_by_name[SERVICE].CopyToProto(proto)
    return {
        method.name: (
            method.input_type,
            method.client_streaming,
            method.output_type,
            method.server_streaming,
        )
        for method in proto.method
    }


def test_both_sides_have_the_same_twenty_calls() -> None:
    assert calls(inference_pb2.DESCRIPTOR) == calls(service_pb2.DESCRIPTOR)
    assert len(calls(inference_pb2.DESCRIPTOR)) == 20


def test_the_stub_has_every_call() -> None:
    servicer = inference_pb2_grpc.GRPCInferenceServiceServicer
    assert all(hasattr(servicer, name) for name in calls(inference_pb2.DESCRIPTOR))


def test_bytes_of_one_side_are_read_by_the_other() -> None:
    theirs = service_pb2.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"\x00\xff"])
    theirs.inputs.add(name="IN", datatype="UINT8", shape=[1, 2])
    theirs.parameters["priority"].uint64_param = 3
    ours = inference_pb2.ModelInferRequest.FromString(theirs.SerializeToString())
    assert ours.inputs[0].shape == [1, 2]
    assert ours.parameters["priority"].uint64_param == 3
    assert service_pb2.ModelInferRequest.FromString(ours.SerializeToString()) == theirs


TRITON = "import tritonclient.grpc as theirs"
OWN = "from deepseek_protos import inference_pb2 as ours, inference_pb2_grpc"
USE = (
    "assert ours.ModelInferRequest(id='x').SerializeToString() == "
    "theirs.service_pb2.ModelInferRequest(id='x').SerializeToString()"
)


@pytest.mark.parametrize(
    "first", [pytest.param(True, id="ours-first"), pytest.param(False, id="theirs-first")]
)
def test_both_packages_live_in_one_process(first: bool) -> None:
    lines = [OWN, TRITON] if first else [TRITON, OWN]
    code = "\n".join([*lines, USE])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
