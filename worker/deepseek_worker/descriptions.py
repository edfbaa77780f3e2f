"""What a model looks like in the protocol's own messages.

Why it exists: metadata, configuration and the index are three views of one ModelInfo. All functions
are pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from deepseek_engine.client import ModelInfo, TensorSpec
from deepseek_protos import inference_pb2 as pb

from deepseek_worker.encoding import MODEL_VERSION
from deepseek_worker.fleet import ModelStatus, Phase

__all__ = ["model_config", "model_index", "model_metadata"]

_DATA_TYPES = {name: f"TYPE_{name}" for name in ("BOOL", "FP16", "FP32", "FP64", "BF16")}
_DATA_TYPES |= {
    f"{kind}{bits}": f"TYPE_{kind}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)
}
_DATA_TYPES["BYTES"] = "TYPE_STRING"
_INDEX_STATES = {
    Phase.STARTING: "LOADING",
    Phase.LOADING: "LOADING",
    Phase.PROVING: "LOADING",
    Phase.READY: "READY",
    Phase.FAILED: "UNAVAILABLE",
}


def model_metadata(info: ModelInfo) -> pb.ModelMetadataResponse:
    """Names, datatypes and shapes; dimension 0 is the batch."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=info.name,
        versions=[MODEL_VERSION],
        platform=info.backend,
        inputs=[tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in info.inputs],
        outputs=[tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in info.outputs],
    )


def model_config(info: ModelInfo) -> pb.ModelConfig:
    """The settings that clients such as load generators read."""
    config = pb.ModelConfig(
        name=info.name,
        platform=info.backend,
        backend=info.backend,
        max_batch_size=info.max_batch_size,
    )
    # With a batch size, Triton's convention leaves the batch dimension out of the dims.
    first = 1 if info.max_batch_size else 0
    for spec in info.inputs:
        config.input.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape[first:])
    for spec in info.outputs:
        config.output.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape[first:])
    if info.generation is None:
        config.dynamic_batching.SetInParent()
    # Whether a request may get several answers, which are then read from a stream.
    config.model_transaction_policy.decoupled = info.generation is not None
    shown = {
        "task": info.task,
        "precision": info.precision,
        "variant": info.variant,
        "digest": info.digest,
        "random_weights": "true" if info.random_weights else "",
    }
    for key, value in shown.items():
        if value:
            config.parameters[key].string_value = value
    return config


def model_index(statuses: Iterable[ModelStatus], *, only_ready: bool) -> pb.RepositoryIndexResponse:
    """The models and their states, in the words of Triton's clients."""
    response = pb.RepositoryIndexResponse()
    for status in statuses:
        if only_ready and status.phase is not Phase.READY:
            continue
        state = _INDEX_STATES[status.phase]
        reason = f"{status.reason}: {status.message}" if status.message else ""
        response.models.add(name=status.name, version=MODEL_VERSION, state=state, reason=reason)
    return response


def _data_type(spec: TensorSpec) -> str:
    return _DATA_TYPES[spec.datatype]
