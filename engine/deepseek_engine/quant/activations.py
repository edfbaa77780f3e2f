"""What linear layers compute that round their inputs while they run, on a CPU and exactly.

Why it exists: these are the numbers that the GPU kernels have to give, without Triton and without
64-bit products. Each token has its own scale, so an answer does not depend on its batch mates.
Integer sums are exact; values are multiplied by the reciprocal of the scale, as the kernels do it.
A token with NaN or infinity gives NaN.
"""

from __future__ import annotations

import torch
from deepseek_kernels.quantize import FP8_MAX, INT8_MAX
from deepseek_kernels.weights import QuantizedWeight

EXACT_COLUMNS = 1024
"""Products of int8 numbers that fp32 adds without rounding: 1024 x 127 x 127 < 2^24."""


def round_tokens_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 values of tokens ``[M, K]`` and their fp32 scales ``[M, 1]``; zeros get the scale 1."""
    values = x.float()
    scale = _scale(values.abs().amax(-1, keepdim=True), INT8_MAX)
    rounded = torch.round(values * (1 / scale)).clamp_(-INT8_MAX, INT8_MAX)
    return rounded.nan_to_num_(0.0).to(torch.int8), scale


def round_tokens_fp8(x: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """fp8 values ``[M, K]`` and fp32 scales ``[M, ceil(K / group)]`` (``[M, 1]`` for group 0)."""
    columns = x.shape[-1]
    size = group or columns
    padded = torch.nn.functional.pad(x.float(), (0, -columns % size))
    values = padded.reshape(*x.shape[:-1], padded.shape[-1] // size, size)
    scale = _scale(values.abs().amax(-1, keepdim=True), FP8_MAX)
    rounded = (values * (1 / scale)).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return rounded.flatten(-2)[..., :columns], scale.squeeze(-1)


def multiply_int8(
    x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None
) -> torch.Tensor:
    """``x [..., K]`` times an int8 weight ``[N, K]``, both in int8 with exact integer sums."""
    rows = x.reshape(-1, x.shape[-1])
    values, scale = round_tokens_int8(rows)
    total = torch.zeros(len(rows), weight.shape[0], dtype=torch.int32)
    for first in range(0, weight.shape[1], EXACT_COLUMNS):
        part = slice(first, first + EXACT_COLUMNS)
        product = values[:, part].float() @ weight.data[:, part].float().t()
        total += product.to(torch.int32)
    found = total.float() * scale * weight.scale.reshape(1, -1)
    if bias is not None:
        found += bias.float()
    return found.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def multiply_fp8(
    x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None, *, group: int
) -> torch.Tensor:
    """``x [..., K]`` rounded to fp8 times an fp8 weight ``[N, K]``, with fp32 sums."""
    rows = x.reshape(-1, x.shape[-1])
    values, scale = round_tokens_fp8(rows, group)
    spread = scale.repeat_interleave(group or rows.shape[-1], -1)[:, : rows.shape[-1]]
    found = (values.float() * spread) @ weight.dequantize(torch.float32).t()
    if bias is not None:
        found += bias.float()
    return found.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def _scale(peak: torch.Tensor, largest: float) -> torch.Tensor:
    """Never denormal, which GPUs take for zero; 1 for zeros."""
    smallest = torch.finfo(torch.float32).tiny
    return torch.where(peak == 0, 1.0, (peak / largest).clamp_(min=smallest))
