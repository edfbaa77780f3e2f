"""How numbers become int8 or fp8: one rule, in plain torch.

Why it exists: kernels, their references, weights that are rounded to the nearest and layers on a
CPU round alike, so that a result does not depend on where it was computed. Kernels have the same
rule in ``ops.elementwise``; tests compare the two bit by bit. Needs no Triton.

The rule. A group of numbers (a row or a block) has one float32 scale ``largest / limit`` with the
largest magnitude of the group and the limit of the type: 127 for int8, which is symmetric and never
uses -128; 448 for e4m3. Values are rounded to the nearest, halves to even.

* A group of zeros has the values 0 and the scale 1, so that one can divide by it; a square block
  of zeros has the scale 0, as the formula says.
* A scale is never below the smallest normal float32 number, so that hardware which flushes
  subnormal numbers to zero gives the same values; groups of magnitudes under 127 x 1.2e-38 become
  coarser by that, with an error of at most 6e-39.
* A group that holds NaN or infinity has the scale NaN and the values 0: every product with it is
  NaN, as it would be without quantization. Whoever quantizes weights refuses such a scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError

__all__ = ["LIMITS", "limit_of", "quantize_blocks", "quantize_rows", "scale_of"]

LIMITS = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""Largest magnitude of each type that values are rounded to."""
_SMALLEST_NORMAL = 2.0**-126


def limit_of(out_dtype: torch.dtype) -> float:
    """The largest magnitude of a type that values are rounded to.

    Raises:
        KernelArgumentError: nothing is rounded to this type.
    """
    if out_dtype not in LIMITS:
        raise KernelArgumentError(
            f"out_dtype: is {out_dtype}; give torch.int8 or torch.float8_e4m3fn"
        )
    return LIMITS[out_dtype]


def scale_of(largest: Tensor, limit: float) -> Tensor:
    """The float32 scale of groups whose largest magnitudes (float32) are given."""
    scale = (largest / limit).clamp(min=_SMALLEST_NORMAL)
    scale = torch.where(largest == 0, 1.0, scale)
    return torch.where(largest.isfinite(), scale, torch.nan)


def quantize_rows(values: Tensor, out_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantize each row of float32[..., N] with a scale of its own, in plain torch.

    Returns:
        The values as ``out_dtype[..., N]`` and the scales as float32[...].
    """
    limit = limit_of(out_dtype)
    if values.shape[-1] == 0:
        return values.to(out_dtype), values.new_ones(values.shape[:-1])
    scale = scale_of(values.abs().amax(dim=-1), limit)
    scaled = (values * scale.reciprocal().unsqueeze(-1)).nan_to_num(nan=0.0).clamp(-limit, limit)
    return (scaled.round() if out_dtype is torch.int8 else scaled).to(out_dtype), scale


def quantize_blocks(values: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Quantize square blocks of float32[..., R, C] to int8; those at the edges may be smaller.

    Returns:
        The values as int8[..., R, C] and the scales as float32[..., ceil(R / b), ceil(C / b)].
    """
    rows, columns = values.shape[-2:]
    down, across = -(-rows // block), -(-columns // block)
    padding = (0, across * block - columns, 0, down * block - rows)
    tiles = torch.nn.functional.pad(values, padding).reshape(
        *values.shape[:-2], down, block, across, block
    )
    if tiles.numel():
        largest = tiles.abs().amax(dim=(-3, -1))
    else:
        largest = tiles.new_empty((*values.shape[:-2], down, across))
    scales = scale_of(largest, LIMITS[torch.int8])
    rounded = (tiles / scales[..., :, None, :, None]).nan_to_num(nan=0.0).round().to(torch.int8)
    padded = rounded.reshape(*values.shape[:-2], down * block, across * block)
    return padded[..., :rows, :columns].contiguous(), torch.where(largest == 0, 0.0, scales)
