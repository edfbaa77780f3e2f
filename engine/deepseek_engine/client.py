"""All that a front end may import of the engine.

Why it exists: a front end speaks the network's protocols and must stay small, so everything that
it needs of the engine is here, and nothing here imports NumPy, ONNX Runtime, torch, tokenizers or
Pillow. Front ends must import no other module of this package.
"""

from __future__ import annotations

from deepseek_engine.logs import json_formatter
from deepseek_engine.messages import (
    DATATYPE_BYTES,
    AutoPrecision,
    Buffer,
    DeviceStats,
    EngineClient,
    EngineConfig,
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
    "AutoPrecision",
    "Buffer",
    "DeviceStats",
    "EngineClient",
    "EngineConfig",
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
    "Tensor",
    "TensorSpec",
    "Timing",
    "WireTensor",
    "check_request",
    "json_formatter",
    "report_end",
    "reports_its_end",
]
