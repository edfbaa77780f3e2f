"""Words that several parts of the API share: precisions, devices, data types, instruction sets.

Why it exists: a bundle, a catalog entry and a ModelPipeline must spell the same thing the same
way. Only words that are written to files belong here; logic does not.
"""

from __future__ import annotations

import enum

__all__ = [
    "SOURCE_URI_PATTERN",
    "BackendName",
    "Datatype",
    "DeviceKind",
    "InstructionSet",
    "Precision",
    "TaskName",
]

SOURCE_URI_PATTERN = r"^(oci|pvc|file|hf|s3|pip|random)://[^\s]+$"
"""What a source URI looks like; valid both for Python and for the API server's RE2."""


class Precision(enum.StrEnum):
    """The number format of a model's weights and arithmetic."""

    AUTO = "auto"
    """The fastest measured variant within the agreement bound."""
    FP32 = "fp32"
    """32-bit floating point."""
    FP16 = "fp16"
    """16-bit floating point."""
    BF16 = "bf16"
    """16-bit floating point with the range of fp32."""
    INT8 = "int8"
    """8-bit integers."""
    INT4 = "int4"
    """4-bit integers, weights only."""
    FP8 = "fp8"
    """8-bit floating point."""
    MIXED = "mixed"
    """Feed-forward layers at low precision, the rest at high precision."""


class DeviceKind(enum.StrEnum):
    """The kind of device a model runs on."""

    CPU = "cpu"
    """The processor."""
    CUDA = "cuda"
    """An NVIDIA GPU."""
    ROCM = "rocm"
    """An AMD GPU."""
    NPU = "npu"
    """An Ascend NPU."""


class BackendName(enum.StrEnum):
    """The library that executes a variant."""

    ONNXRUNTIME = "onnxruntime"
    """ONNX Runtime."""
    TORCH = "torch"
    """PyTorch."""


class TaskName:
    """Tasks that the built-in catalog uses; a task is an open set, so these are plain strings."""

    TEXT_EMBEDDING = "text-embedding"
    TEXT_CLASSIFICATION = "text-classification"
    IMAGE_CLASSIFICATION = "image-classification"
    SEGMENTATION = "segmentation"
    GENERATE = "generate"
    TENSORS = "tensors"


class Datatype(enum.StrEnum):
    """Tensor data types as the Open Inference Protocol names them."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class InstructionSet(enum.StrEnum):
    """Features of a processor, or the kind of a GPU, that decide which variant is right."""

    ANY = "any"
    """No particular feature."""
    AVX2 = "avx2"
    """x86 with AVX2: 8-bit products are added in 16 bits and can saturate."""
    AVX_VNNI = "avx-vnni"
    """x86 with AVX-VNNI: 8-bit dot products on 256 bits."""
    AVX512 = "avx512"
    """x86 with AVX-512 and without VNNI."""
    AVX512_VNNI = "avx512-vnni"
    """x86 with AVX-512 VNNI: 8-bit dot products on 512 bits."""
    AMX_INT8 = "amx-int8"
    """x86 with AMX tiles for 8-bit integers."""
    NEON = "neon"
    """ARM with NEON."""
    NEON_DOTPROD = "neon-dotprod"
    """ARM with 8-bit dot products."""
    NEON_I8MM = "neon-i8mm"
    """ARM with 8-bit matrix products."""
    CUDA = "cuda"
    """An NVIDIA GPU; no processor selects these variants."""
