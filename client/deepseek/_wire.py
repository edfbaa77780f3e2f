"""Requests and answers of the Open Inference Protocol as plain Python values.

Why it exists: the synchronous and the asynchronous client differ only in how they wait. What they
send and how they read the answer lives here, free of I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_protos import inference_pb2 as pb

from deepseek._tensors import DTYPES, Array, TensorInput, decode, encode

Parameter = bool | int | float | str
Inputs = Mapping[str, TensorInput]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of an input or output; -1 marks a dimension that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a server says about one model."""

    name: str
    platform: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one inference request."""

    outputs: dict[str, Array]
    """Outputs by name; BYTES tensors are object arrays of ``bytes``."""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    """What the server adds, for example ``precision``, ``variant`` and ``random_weights``."""
    model: str = ""
    id: str = ""

    def __getitem__(self, name: str) -> Array:
        """The output of this name."""
        return self.outputs[name]


def infer_request(
    model: str,
    inputs: Inputs,
    *,
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Parameter] | None = None,
    request_id: str = "",
) -> pb.ModelInferRequest:
    """The protocol message of a request."""
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    for name, value in inputs.items():
        datatype, shape, data = encode(name, value)
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)
    for name in outputs:
        request.outputs.add(name=name)
    for name, parameter in (parameters or {}).items():
        _set_parameter(request.parameters[name], name, parameter)
    return request


def _set_parameter(target: pb.InferParameter, name: str, value: Parameter) -> None:
    # bool first: it is an int to Python.
    if isinstance(value, bool):
        target.bool_param = value
    elif isinstance(value, int):
        target.int64_param = value
    elif isinstance(value, float):
        target.double_param = value
    elif isinstance(value, str):
        target.string_param = value
    else:
        raise InferenceError(
            f"The parameter '{name}' is a {type(value).__name__}.",
            code=ErrorCode.INVALID_ARGUMENT,
            hint="Parameters are bool, int, float or str.",
            reason="InvalidParameter",
        )


def result_of(response: pb.ModelInferResponse) -> Result:
    """The answer as arrays.

    Raises:
        InferenceError: the answer is not consistent in itself.
    """
    raw = response.raw_output_contents
    if raw and len(raw) != len(response.outputs):
        raise InferenceError(
            f"The server answered with {len(response.outputs)} outputs and {len(raw)} buffers.",
            code=ErrorCode.INTERNAL,
            reason="DamagedAnswer",
        )
    outputs = {
        tensor.name: decode(tensor.datatype, tensor.shape, raw[i]) if raw else _typed(tensor)
        for i, tensor in enumerate(response.outputs)
    }
    parameters = {name: _parameter(value) for name, value in response.parameters.items()}
    return Result(outputs, parameters, response.model_name, response.id)


_CONTENTS_FIELD = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def _typed(tensor: pb.ModelInferResponse.InferOutputTensor) -> Array:
    name = _CONTENTS_FIELD.get(tensor.datatype)
    if name is None:
        return decode(tensor.datatype, tensor.shape, b"")
    values = list(getattr(tensor.contents, name))
    dtype = object if tensor.datatype == "BYTES" else DTYPES[tensor.datatype]
    array: Array = np.empty(len(values), dtype=dtype)
    array[:] = values
    return array.reshape(tuple(tensor.shape))


def _parameter(value: pb.InferParameter) -> Parameter:
    kind = value.WhichOneof("parameter_choice")
    result: Parameter = getattr(value, kind) if kind else ""
    return result


def metadata_of(response: pb.ModelMetadataResponse) -> ModelMetadata:
    """The metadata as plain values."""
    return ModelMetadata(
        name=response.name,
        platform=response.platform,
        versions=tuple(response.versions),
        inputs=tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in response.inputs),
        outputs=tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in response.outputs),
    )
