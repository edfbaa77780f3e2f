"""From an InferenceResponse to a ModelInferResponse.

Why it exists: the counterpart of :mod:`deepseek_worker.decoding`. A request with typed lists gets
typed lists back, as long as every output has such a list; otherwise all outputs travel raw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deepseek_engine.client import InferenceResponse, Tensor
from deepseek_protos import inference_pb2 as pb

from deepseek_worker.elements import TYPED_FIELDS, contents_from_raw

__all__ = ["MODEL_VERSION", "encode_part", "encode_response", "set_parameter"]

MODEL_VERSION = "1"
"""The one version under which every model is served."""


def encode_response(
    response: InferenceResponse, *, model: str, request_id: str, typed: bool
) -> pb.ModelInferResponse:
    """The answer to a request, as the protocol has it.

    Parameters of the answer: ``variant`` and ``precision`` say what computed it, ``queue_ms``,
    ``compute_ms`` and ``batch_rows`` how, and ``random_weights`` is present and true when the
    weights are random.
    """
    message = encode_part(
        response.outputs, response.parameters, model=model, request_id=request_id, typed=typed
    )
    parameters = message.parameters
    parameters["variant"].string_param = response.variant
    parameters["precision"].string_param = response.precision
    parameters["queue_ms"].double_param = response.timing.queue_ms
    parameters["compute_ms"].double_param = response.timing.compute_ms
    parameters["batch_rows"].int64_param = response.timing.batch_rows
    if response.random_weights:
        parameters["random_weights"].bool_param = True
    return message


def encode_part(
    outputs: Iterable[Tensor],
    parameters: Mapping[str, bool | int | float | str],
    *,
    model: str,
    request_id: str,
    typed: bool,
) -> pb.ModelInferResponse:
    """Outputs and parameters of an answer, or of a part of one."""
    message = pb.ModelInferResponse(model_name=model, model_version=MODEL_VERSION, id=request_id)
    outputs = tuple(outputs)
    typed = typed and all(output.datatype in TYPED_FIELDS for output in outputs)
    for output in outputs:
        tensor = message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        if typed:
            tensor.contents.CopyFrom(contents_from_raw(output.datatype, output.data))
        else:
            message.raw_output_contents.append(bytes(output.data))
    for name, value in parameters.items():
        set_parameter(message.parameters[name], value)
    return message


def set_parameter(parameter: pb.InferParameter, value: bool | int | float | str) -> None:
    """Give a parameter a value of any kind."""
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    else:
        parameter.double_param = value
