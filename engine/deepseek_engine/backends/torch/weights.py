"""Weights into a module: plain tensors and quantized layers, straight onto the device.

Why it exists: a quantized checkpoint holds other tensors than its module has parameters, so layers
are exchanged before anything is loaded. Weights that do not fit a device are refused before they
are copied to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek_api.errors import DeviceError, ErrorCode
from deepseek_api.manifest import Variant

from deepseek_engine.backends.torch.description import Description
from deepseek_engine.backends.torch.importing import import_library
from deepseek_engine.memory import estimate_memory

__all__ = ["arrange_for_gpu", "check_gpu_memory", "load_weights", "no_room"]

MIB = 1024 * 1024


def load_weights(module: Any, description: Description, path: Path) -> Any:
    """Load a checkpoint into a module on the processor; gives the module, in evaluation mode.

    Raises:
        ValueError, RuntimeError, KeyError: tensors are missing, left over or of another shape.
        SourceError, PrecisionError: the same of a quantized checkpoint.
    """
    torch = import_library("torch")
    # The type first: quantized values keep theirs.
    module = module.to(dtype=getattr(torch, description.dtype))
    if description.quantized:
        checkpoints = import_library("deepseek_engine.quant.checkpoint")
        with checkpoints.Checkpoint(path.parent) as checkpoint:
            checkpoints.load_into(module, checkpoint)
    else:
        _load(module, import_library("safetensors.torch").load_file(str(path)))
    return module.eval()


def _load(module: Any, tensors: Mapping[str, Any]) -> None:
    """Load weights of which each is stored once, also where two parameters share it."""
    missing, unknown = module.load_state_dict(tensors, strict=False)
    own = module.state_dict()
    loaded = {own[name].data_ptr() for name in tensors if name in own}
    absent = [name for name in missing if own[name].data_ptr() not in loaded]
    if absent or unknown:
        raise ValueError(f"tensors do not fit: {[*absent, *unknown][:4]}")


def arrange_for_gpu(module: Any) -> None:
    """Rearrange quantized weights once as GPU kernels read them best."""
    for layer in module.modules():
        # Only quantized layers have it; the class is not imported for plain modules.
        if (arrange := getattr(layer, "use_tiles", None)) is not None:
            arrange()


def check_gpu_memory(torch: Any, variant: Variant, device: str) -> None:
    """Raise unless a variant fits on a GPU now.

    Raises:
        DeviceError: RESOURCE_EXHAUSTED, with the figures.
    """
    need = estimate_memory(variant)
    free, total = torch.cuda.mem_get_info(device)
    if need > free:
        raise no_room(variant, device, f", of whose {total // MIB} MiB {free // MIB} MiB are free")


def no_room(variant: Variant, device: str, why: str = ", which it does not have") -> DeviceError:
    """The error of a variant that does not fit on a GPU."""
    need = estimate_memory(variant) // MIB
    return DeviceError(
        f"The variant '{variant.id}' needs {need} MiB on '{device}'{why}.",
        hint="Serve fewer models on this GPU, or choose a smaller precision.",
        code=ErrorCode.RESOURCE_EXHAUSTED,
        reason="InsufficientMemory",
    )
