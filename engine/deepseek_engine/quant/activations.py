"""What linear layers compute that round their inputs while they run, on a CPU and exactly.

Why it exists: these are the numbers that the GPU kernels have to give, without Triton and without
64-bit products. Each token has its own scale, so an answer does not depend on its batch mates.
Integer sums are exact; values are rounded by the kernels' rule (`deepseek_kernels.rounding`).
A token with NaN or infinity gives NaN.
"""

from __future__ import annotations

import torch
from deepseek_kernels.rounding import quantize_rows
from deepseek_kernels.weights import QuantizedWeight

EXACT_COLUMNS = 1024
"""Products of int8 numbers that fp32 adds without rounding: 1024 x 127 x 127 < 2^24."""


def round_tokens_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 values of tokens ``[M, K]`` and their fp32 scales ``[M, 1]``."""
    values, scale = quantize_rows(x.float(), torch.int8)
    return values, scale.unsqueeze(-1)


def round_tokens_fp8(x: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """fp8 values ``[M, K]`` and fp32 scales ``[M, ceil(K / group)]`` (``[M, 1]`` for group 0)."""
    rows, columns = x.shape
    size = group or columns
    groups = -(-columns // size)
    padded = torch.nn.functional.pad(x.float(), (0, groups * size - columns))
    values, scale = quantize_rows(padded.reshape(rows, groups, size), torch.float8_e4m3fn)
    return values.flatten(1)[:, :columns], scale


def multiply_int8(
    x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None
) -> torch.Tensor:
    """``x [..., K]`` times an int8 weight ``[N, K]``, both in int8 with exact integer sums."""
    rows = x.reshape(-1, x.shape[-1])
    values, scale = round_tokens_int8(rows)
    total = torch.zeros(len(rows), weight.shape[0], dtype=torch.float64)  # exact up to 2^53
    for first in range(0, weight.shape[1], EXACT_COLUMNS):
        part = slice(first, first + EXACT_COLUMNS)
        total += values[:, part].float() @ weight.data[:, part].float().t()
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
