"""From an InferenceResponse to a ModelInferResponse.

Why it exists: the counterpart of :mod:`deepseek_worker.decoding`. A request with typed lists gets
typed lists back, as long as every output has such a list; otherwise all outputs travel raw.
"""

from __future__ import annotations

from deepseek_engine.client import InferenceResponse
from deepseek_protos import inference_pb2 as pb

from deepseek_worker.elements import TYPED_FIELDS, contents_from_raw

__all__ = ["MODEL_VERSION", "encode_response"]

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
    message = pb.ModelInferResponse(model_name=model, model_version=MODEL_VERSION, id=request_id)
    typed = typed and all(output.datatype in TYPED_FIELDS for output in response.outputs)
    for output in response.outputs:
        tensor = message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        if typed:
            tensor.contents.CopyFrom(contents_from_raw(output.datatype, output.data))
        else:
            message.raw_output_contents.append(bytes(output.data))
    parameters = message.parameters
    parameters["variant"].string_param = response.variant
    parameters["precision"].string_param = response.precision
    parameters["queue_ms"].double_param = response.timing.queue_ms
    parameters["compute_ms"].double_param = response.timing.compute_ms
    parameters["batch_rows"].int64_param = response.timing.batch_rows
    if response.random_weights:
        parameters["random_weights"].bool_param = True
    return message
