"""Weights into a module: plain tensors and quantized layers, straight onto the device.

Why it exists: a quantized checkpoint holds other tensors than its module has parameters, so layers
are exchanged before anything is loaded. Weights that do not fit a device are refused before they
are copied to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek_api.errors import DeviceError, ErrorCode
from deepseek_api.manifest import Variant

from deepseek_engine.backends.torch.description import Description
from deepseek_engine.backends.torch.importing import import_library
from deepseek_engine.memory import estimate_memory

__all__ = ["check_gpu_memory", "load_weights"]

MIB = 1024 * 1024


def load_weights(module: Any, description: Description, path: Path) -> Any:
    """Load a checkpoint into a module on the processor; gives the module.

    Raises:
        ValueError, RuntimeError, KeyError: tensors are missing, left over or of another shape.
    """
    torch = import_library("torch")
    # The type first: weights that are quantized keep theirs.
    module = module.to(dtype=getattr(torch, description.dtype))
    tensors = import_library("safetensors.torch").load_file(str(path))
    module.load_state_dict(tensors)
    return module.eval()


def check_gpu_memory(torch: Any, variant: Variant, device: str) -> None:
    """Raise unless a variant fits on a GPU now.

    Raises:
        DeviceError: RESOURCE_EXHAUSTED, with the figures.
    """
    need = estimate_memory(variant)
    free, total = torch.cuda.mem_get_info(device)
    if need > free:
        raise DeviceError(
            f"The variant '{variant.id}' needs {need // MIB} MiB on '{device}', of whose "
            f"{total // MIB} MiB {free // MIB} MiB are free.",
            hint="Serve fewer models on this GPU, or choose a smaller precision.",
            code=ErrorCode.RESOURCE_EXHAUSTED,
            reason="InsufficientMemory",
        )
