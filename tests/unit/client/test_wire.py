"""Requests and answers as protocol messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from deepseek._wire import infer_request, metadata_of, result_of
from deepseek_api.errors import InferenceError
from deepseek_protos import inference_pb2 as pb


def test_a_request_carries_inputs_outputs_parameters_and_id() -> None:
    request = infer_request(
        "m",
        {"a": np.ones((1, 2), np.float32), "b": ["x"]},
        outputs=["y"],
        parameters={"priority": 1, "flag": True, "scale": 0.5, "word": "w"},
        request_id="7",
    )
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("a", "FP32", [1, 2]),
        ("b", "BYTES", [1]),
    ]
    assert list(request.raw_input_contents) == [b"\x00\x00\x80?" * 2, b"\x01\x00\x00\x00x"]
    assert [output.name for output in request.outputs] == ["y"]
    kinds = {
        name: value.WhichOneof("parameter_choice") for name, value in request.parameters.items()
    }
    assert kinds == {
        "priority": "int64_param",
        "flag": "bool_param",
        "scale": "double_param",
        "word": "string_param",
    }
    assert request.id == "7"


def test_a_parameter_of_another_type_is_refused_by_name() -> None:
    wrong: Any = [1]
    with pytest.raises(InferenceError, match="'priority' is a list"):
        infer_request("m", {}, parameters={"priority": wrong})


def test_raw_answers_become_arrays_and_parameters_python_values() -> None:
    response = pb.ModelInferResponse(model_name="m", id="7")
    response.outputs.add(name="y", datatype="INT64", shape=[2])
    response.raw_output_contents.append(np.array([1, 2], "<i8").tobytes())
    response.parameters["precision"].string_param = "int8"
    response.parameters["random_weights"].bool_param = True
    result = result_of(response)
    assert result["y"].tolist() == [1, 2]
    assert result.parameters == {"precision": "int8", "random_weights": True}
    assert (result.model, result.id) == ("m", "7")


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("FP32", "fp32_contents", [1.5, 2.5]),
        ("INT8", "int_contents", [-1, 2]),
        ("UINT64", "uint64_contents", [1, 2**63]),
        ("BOOL", "bool_contents", [True, False]),
        ("BYTES", "bytes_contents", [b"a", b"\xff"]),
    ],
)
def test_typed_answers_of_other_servers_are_read(
    datatype: str, field: str, values: list[Any]
) -> None:
    response = pb.ModelInferResponse()
    tensor = response.outputs.add(name="y", datatype=datatype, shape=[2, 1])
    getattr(tensor.contents, field).extend(values)
    array = result_of(response)["y"]
    assert array.shape == (2, 1)
    assert array.ravel().tolist() == values


def test_an_answer_with_a_buffer_too_few_is_refused() -> None:
    response = pb.ModelInferResponse(raw_output_contents=[b""])
    response.outputs.add(name="a")
    response.outputs.add(name="b")
    with pytest.raises(InferenceError, match="2 outputs and 1 buffers"):
        result_of(response)


def test_metadata_lists_inputs_and_outputs() -> None:
    response = pb.ModelMetadataResponse(name="m", versions=["1"], platform="onnxruntime")
    response.inputs.add(name="text", datatype="BYTES", shape=[-1])
    metadata = metadata_of(response)
    assert metadata.inputs[0].shape == (-1,)
    assert (metadata.name, metadata.platform, metadata.versions) == ("m", "onnxruntime", ("1",))
