"""All that a front end may import of the engine.

Why it exists: a front end speaks the network's protocols and must stay small, so everything that
it needs of the engine is here, and nothing here imports NumPy, ONNX Runtime, torch, tokenizers or
Pillow. Front ends must import no other module of this package.
"""

from __future__ import annotations

from deepseek_engine.generation.interface import GeneratorStats
from deepseek_engine.generation.parameters import sampling_parameters
from deepseek_engine.generation.requests import (
    Constraint,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    GenerationUsage,
    SamplingParameters,
    TokenLogprob,
)
from deepseek_engine.generation.settings import AdapterConfig, GenerationSettings
from deepseek_engine.generation.tensors import (
    generation_request,
    merged,
    outcome,
    output_tensors,
)
from deepseek_engine.logs import json_formatter
from deepseek_engine.messages import (
    DATATYPE_BYTES,
    AutoPrecision,
    Buffer,
    DeviceStats,
    EngineClient,
    EngineConfig,
    GenerationInfo,
    Heartbeat,
    InferenceRequest,
    InferenceResponse,
    MemoryStats,
    ModelConfig,
    ModelInfo,
    ModelState,
    ModelStats,
    Tensor,
    TensorSpec,
    Timing,
    WireTensor,
)
from deepseek_engine.remote import RemoteEngine, RemoteSettings
from deepseek_engine.termination import report_end, reports_its_end
from deepseek_engine.validation import check_request

__all__ = [
    "DATATYPE_BYTES",
    "AdapterConfig",
    "AutoPrecision",
    "Buffer",
    "Constraint",
    "DeviceStats",
    "EngineClient",
    "EngineConfig",
    "FinishReason",
    "GenerationChunk",
    "GenerationInfo",
    "GenerationRequest",
    "GenerationSettings",
    "GenerationUsage",
    "GeneratorStats",
    "Heartbeat",
    "InferenceRequest",
    "InferenceResponse",
    "MemoryStats",
    "ModelConfig",
    "ModelInfo",
    "ModelState",
    "ModelStats",
    "RemoteEngine",
    "RemoteSettings",
    "SamplingParameters",
    "Tensor",
    "TensorSpec",
    "Timing",
    "TokenLogprob",
    "WireTensor",
    "check_request",
    "generation_request",
    "json_formatter",
    "merged",
    "outcome",
    "output_tensors",
    "report_end",
    "reports_its_end",
    "sampling_parameters",
]
