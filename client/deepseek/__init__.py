"""Serve and call several quantized models: client, in-process engine and command line.

Importing this package is cheap: every public name loads its module when it is first used, so that
a command line prompt or a web handler does not pay for NumPy, gRPC or a runtime it never touches.
Import from here only; modules that start with an underscore may change in any release.

    from deepseek import Client

    with Client("127.0.0.1:8001") as client:
        vectors = client.embed("minilm", ["a cat", "a kitten"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from deepseek_api.errors import (
    AllocationError,
    BundleError,
    CatalogError,
    ConfigurationError,
    DeepseekError,
    DeviceError,
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
    InvalidPipelineError,
    PrecisionError,
    QueueFullError,
    SourceError,
)

if TYPE_CHECKING:
    from deepseek._aio import AsyncClient
    from deepseek._batching import dynamic_batching
    from deepseek._channel import TLSConfig
    from deepseek._client import Client
    from deepseek._engine import InferenceEngine
    from deepseek._fusion import deepseek_fuse
    from deepseek._generating import Chunk, Sampling
    from deepseek._quantization import QuantizationMode, adaptive_quantization
    from deepseek._weights import block_quantize, dynamic_pruning
    from deepseek._wire import ModelMetadata, Result, TensorSpec

__version__ = "0.1.0"

__all__ = [
    "AllocationError",
    "AsyncClient",
    "BundleError",
    "CatalogError",
    "Chunk",
    "Client",
    "ConfigurationError",
    "DeepseekError",
    "DeviceError",
    "EngineUnavailableError",
    "ErrorCode",
    "InferenceEngine",
    "InferenceError",
    "InvalidPipelineError",
    "ModelMetadata",
    "PrecisionError",
    "QuantizationMode",
    "QueueFullError",
    "Result",
    "Sampling",
    "SourceError",
    "TLSConfig",
    "TensorSpec",
    "__version__",
    "adaptive_quantization",
    "block_quantize",
    "deepseek_fuse",
    "dynamic_batching",
    "dynamic_pruning",
]

_HOME = {
    "AsyncClient": "deepseek._aio",
    "Chunk": "deepseek._generating",
    "Client": "deepseek._client",
    "InferenceEngine": "deepseek._engine",
    "ModelMetadata": "deepseek._wire",
    "QuantizationMode": "deepseek._quantization",
    "Result": "deepseek._wire",
    "Sampling": "deepseek._generating",
    "TLSConfig": "deepseek._channel",
    "TensorSpec": "deepseek._wire",
    "adaptive_quantization": "deepseek._quantization",
    "block_quantize": "deepseek._weights",
    "deepseek_fuse": "deepseek._fusion",
    "dynamic_batching": "deepseek._batching",
    "dynamic_pruning": "deepseek._weights",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'deepseek' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
