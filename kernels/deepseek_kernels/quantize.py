"""Round a weight matrix to a scheme: nearest values, scales from the largest magnitudes.

Why it exists: kernels are tested, tuned and measured on weights that this makes, and it is the
baseline that calibrated rounding has to beat. Calibration (GPTQ, AWQ, SmoothQuant, clipping) is
the engine's. Scales follow the rule of ``deepseek_kernels.rounding``.
"""

from __future__ import annotations

import torch

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.packing import pack_int4
from deepseek_kernels.rounding import LIMITS, scale_of
from deepseek_kernels.weights import BLOCK, QuantizedWeight, Scheme

__all__ = ["FP8_MAX", "INT8_MAX", "quantize_weight", "require_finite"]

INT8_MAX = LIMITS[torch.int8]
FP8_MAX = LIMITS[torch.float8_e4m3fn]
"""Largest finite float8_e4m3fn."""


def quantize_weight(
    weight: torch.Tensor, scheme: Scheme, *, group_size: int = 0, symmetric: bool = True
) -> QuantizedWeight:
    """Round ``weight [N, K]`` of any float dtype; arithmetic is in float32.

    Args:
        weight: finite values.
        scheme: of ``deepseek_kernels.weights``.
        group_size: for int4: input features that share a scale; it divides K, or is 0.
        symmetric: for int4: without zero points.

    Raises:
        KernelArgumentError: not a matrix, NaN or infinite values, or a group that does not
            divide K.
    """
    if weight.ndim != 2 or not weight.is_floating_point():
        raise KernelArgumentError(
            f"weight: is {weight.dtype} {list(weight.shape)}; give a float matrix [N, K]"
        )
    require_finite("weight", weight)
    wide, shape = weight.detach().to(torch.float32), (weight.shape[0], weight.shape[1])
    if scheme == "int8":
        scale = scale_of(wide.abs().amax(1, keepdim=True), INT8_MAX)
        data = torch.round(wide / scale).clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)
        return QuantizedWeight("int8", data, scale, shape)
    if scheme == "fp8":
        scale = scale_of(wide.abs().amax(1, keepdim=True), FP8_MAX)
        return QuantizedWeight("fp8", _to_fp8(wide / scale), scale, shape)
    if scheme == "fp8-block":
        return _fp8_blocks(wide, shape)
    return _int4(wide, shape, group_size, symmetric)


def require_finite(name: str, tensor: torch.Tensor) -> None:
    """Refuse NaN and infinite values.

    Raises:
        KernelArgumentError: it says how many there are and where the first is.
    """
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        where = torch.nonzero(~finite)
        raise KernelArgumentError(
            f"{name}: {len(where)} of {tensor.numel()} values are NaN or infinite, the first at "
            f"{where[0].tolist()}; repair the weights before quantizing them"
        )


def _to_fp8(scaled: torch.Tensor) -> torch.Tensor:
    return scaled.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)


def _fp8_blocks(wide: torch.Tensor, shape: tuple[int, int]) -> QuantizedWeight:
    rows, columns = shape
    padded = torch.nn.functional.pad(wide, (0, -columns % BLOCK, 0, -rows % BLOCK))
    blocks = padded.view(-1, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    scale = scale_of(blocks.abs().amax((1, 3)), FP8_MAX)
    scaled = (blocks / scale[:, None, :, None]).flatten(2).flatten(0, 1)
    return QuantizedWeight("fp8-block", _to_fp8(scaled[:rows, :columns]), scale, shape)


def _int4(
    wide: torch.Tensor, shape: tuple[int, int], group_size: int, symmetric: bool
) -> QuantizedWeight:
    size = group_size or shape[1]
    if size < 0 or shape[1] % size:
        raise KernelArgumentError(
            f"group_size: K={shape[1]} is not a multiple of {group_size}; "
            "give a divisor of K, or 0 for the whole row"
        )
    groups = wide.reshape(shape[0], -1, size)
    low, high = groups.amin(2).clamp_(max=0), groups.amax(2).clamp_(min=0)
    if symmetric:
        scale, zero_point = scale_of(torch.maximum(high / 7, -low / 8), 1.0), None
        offset = torch.zeros_like(scale)
    else:
        scale = scale_of(high / 2 - low / 2, 7.5)  # their difference may be infinite
        offset = (-8 - torch.round(low / scale)).clamp_(-8, 7)
        zero_point = offset.to(torch.int8)
    values = torch.round(groups / scale.unsqueeze(2)) + offset.unsqueeze(2)
    packed = pack_int4(values.clamp_(-8, 7).to(torch.int8).flatten(1))
    return QuantizedWeight("int4", packed, scale, shape, zero_point, group_size)
