"""How many blocks the cache of a model has.

Why it exists: too many end the process, too few make sequences wait and be interrupted. It is
decided once, after the weights are loaded, from what the device then has left.
"""

from __future__ import annotations

import torch
from deepseek_api.errors import DeviceError, ErrorCode

from deepseek_engine.generation.scheduler import blocks_for
from deepseek_engine.generation.settings import GenerationSettings
from deepseek_engine.generation.steps import DecoderModel
from deepseek_engine.hardware import detect_memory

__all__ = ["cache_blocks"]

_DEVICE_SHARE = 0.9
"""Part of a GPU's free memory; the rest is for activations and graphs."""
_HOST_SHARE = 0.5
"""Part of the machine's usable memory; other models and processes live there too."""
_MIB = 1024 * 1024


def cache_blocks(
    model: DecoderModel, settings: GenerationSettings, *, memory: int | None = None
) -> int:
    """Blocks to make: as many as are set, else as memory holds, at most as can ever be used.

    Args:
        model: with its weights loaded.
        settings: the model's.
        memory: bytes to use; None: a share of what the device has left.

    Raises:
        DeviceError: RESOURCE_EXHAUSTED: the memory holds no block, or not those that are set.
    """
    each = model.bytes_per_block(settings.block_size)
    if memory is None:
        memory = _free(model.device)
    fits = memory // each
    useful = settings.max_sequences * blocks_for(model.limits.context, settings.block_size)
    wanted = settings.kv_cache_blocks or min(useful, fits)
    if wanted < 1 or wanted > fits:
        wanted = max(1, wanted)
        raise DeviceError(
            f"{wanted} blocks of the cache take {wanted} x {each} bytes = "
            f"{wanted * each / _MIB:.1f} MiB; {memory / _MIB:.1f} MiB may be used for it.",
            hint="Set fewer blocks (kv_cache_blocks), or free memory on the device.",
            code=ErrorCode.RESOURCE_EXHAUSTED,
            reason="InsufficientMemory",
        )
    return wanted


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _DEVICE_SHARE)
    return int(detect_memory().usable * _HOST_SHARE)
