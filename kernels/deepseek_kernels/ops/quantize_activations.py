"""Quantize activations while the model runs: a scale for each token, or for 128 of its features.

Shapes: ``x [M, K]`` float16, bfloat16 or float32. Results are contiguous:

- ``int8_tokens``: int8 ``[M, K]`` and float32 ``[M]``, scale = largest magnitude / 127;
- ``fp8_tokens``: float8_e4m3fn ``[M, K]`` and float32 ``[M]``, scale = largest magnitude / 448;
- ``fp8_blocks``: float8_e4m3fn ``[M, K]`` and float32 ``[M, ceil(K / 128)]``.

Values are multiplied by 1 / scale in float32 and rounded to the nearest, ties to even. Zeros get
the scale 1, and no scale is denormal. A token with a NaN or an infinite value gets the scale NaN
and zeros, so that everything computed from it is NaN, as it would be without quantizing, and its
batch mates are not touched.
"""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl

from deepseek_kernels.ops.common import activation_matrix, device_of, require_fp8_support
from deepseek_kernels.quantize import FP8_MAX, INT8_MAX
from deepseek_kernels.weights import BLOCK

__all__ = [
    "Kind",
    "fp8_blocks",
    "fp8_tokens",
    "int8_tokens",
    "launch",
    "quantize_kernel",
    "quantize_long_kernel",
    "reference",
]

Kind = Literal["int8-tokens", "fp8-tokens", "fp8-blocks"]
_SMALLEST = torch.finfo(torch.float32).tiny
_ONE_PASS = 8192
"""Features of a token that one program keeps in registers."""


@triton.jit
def _scale_of(peak: tl.tensor, bad: tl.tensor, LARGEST: tl.constexpr) -> tl.tensor:
    # 1.1754944e-38 is the smallest normal float32; GPUs may flush what is below it to zero.
    scale = tl.maximum(tl.div_rn(peak, tl.full(peak.shape, LARGEST, tl.float32)), 1.1754944e-38)
    scale = tl.where(peak > 0, scale, 1.0)
    return tl.where(bad > 0, float("nan"), scale)


@triton.jit
def _round(
    wide: tl.tensor, scale: tl.tensor, LARGEST: tl.constexpr, INTEGER: tl.constexpr
) -> tl.tensor:
    """``wide / scale`` on the grid of int8 or float8_e4m3fn, still float32."""
    scaled = wide * (1.0 / scale)
    scaled = tl.where(scaled == scaled, scaled, 0.0)
    scaled = tl.minimum(tl.maximum(scaled, -LARGEST), LARGEST)
    # Adding 1.5 * 2^(23 + e) leaves no bits below 2^e: nearest, ties to even.
    if INTEGER:
        grid = 12582912.0
    else:
        # Three bits of mantissa, from 2^-9 on; the conversion that follows is then exact everywhere
        # (Triton's interpreter loses the carry into the exponent when it has to round).
        exponent = tl.maximum(scaled.to(tl.int32, bitcast=True) & 0x7F800000, 121 << 23)
        grid = 1.5 * (exponent + (20 << 23)).to(tl.float32, bitcast=True)
    return (scaled + grid) - grid


@triton.jit
def quantize_kernel(
    x: tl.tensor,
    values: tl.tensor,
    scales: tl.tensor,
    M: tl.tensor,
    K: tl.tensor,
    GROUPS: tl.tensor,
    stride_x: tl.tensor,
    LARGEST: tl.constexpr,
    INTEGER: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One program: ROWS tokens, one group of at most BLOCK_K features, read once."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = (rows < M)[:, None] & (k < K)[None, :]
    at = rows.to(tl.int64)[:, None]
    wide = tl.load(x + at * stride_x + k[None, :], mask=mask, other=0.0).to(tl.float32)
    size = tl.abs(wide)
    bad = tl.sum((size < float("inf")).to(tl.int32), 1) < BLOCK_K
    scale = _scale_of(tl.max(size, 1), bad.to(tl.int32), LARGEST)
    rounded = _round(wide, scale[:, None], LARGEST, INTEGER)
    tl.store(values + at * K + k[None, :], rounded.to(values.dtype.element_ty), mask=mask)
    tl.store(scales + rows * GROUPS + tl.program_id(1), scale, mask=rows < M)


@triton.jit
def quantize_long_kernel(
    x: tl.tensor,
    values: tl.tensor,
    scales: tl.tensor,
    K: tl.tensor,
    stride_x: tl.tensor,
    LARGEST: tl.constexpr,
    INTEGER: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One program: one token of any length, read twice (the second time from the cache)."""
    row = tl.program_id(0).to(tl.int64)
    peaks = tl.zeros([BLOCK_K], tl.float32)
    bad = tl.zeros([BLOCK_K], tl.int32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        size = tl.abs(tl.load(x + row * stride_x + k, mask=k < K, other=0.0).to(tl.float32))
        peaks = tl.maximum(peaks, size)
        bad += 1 - (size < float("inf")).to(tl.int32)
    scale = _scale_of(tl.max(peaks, 0), tl.sum(bad, 0), LARGEST)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        wide = tl.load(x + row * stride_x + k, mask=k < K, other=0.0).to(tl.float32)
        rounded = _round(wide, scale, LARGEST, INTEGER)
        tl.store(values + row * K + k, rounded.to(values.dtype.element_ty), mask=k < K)
    tl.store(scales + row, scale)


def launch(
    x: torch.Tensor, kind: Kind, *, one_pass: int = _ONE_PASS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a Triton kernel wherever ``x`` is; the module has shapes.

    Args:
        x: ``[M, K]``; rows may lie apart.
        kind: what the values become and what shares a scale.
        one_pass: features of a token that are kept in registers; longer tokens are read twice.

    Raises:
        KernelArgumentError: ``x`` is no float matrix.
        KernelUnavailableError: fp8 on a GPU without it.
    """
    x = activation_matrix(x)
    values, scales = _empty(x, kind)
    M, K = x.shape
    if not x.numel():
        return values, scales
    integer = kind == "int8-tokens"
    largest = INT8_MAX if integer else FP8_MAX
    if not integer:
        require_fp8_support(x.device)
    block = BLOCK if kind == "fp8-blocks" else triton.next_power_of_2(K)
    with device_of(x):
        if block > one_pass:
            quantize_long_kernel[(M,)](
                x,
                values,
                scales,
                K,
                x.stride(0),
                LARGEST=largest,
                INTEGER=integer,
                BLOCK_K=one_pass,
                num_warps=8,
            )
        else:
            rows = max(1, min(16, 2048 // block))
            quantize_kernel[(triton.cdiv(M, rows), triton.cdiv(K, block))](
                x,
                values,
                scales,
                M,
                K,
                triton.cdiv(K, block),
                x.stride(0),
                LARGEST=largest,
                INTEGER=integer,
                ROWS=rows,
                BLOCK_K=block,
                num_warps=8 if rows * block > 2048 else 4,
            )
    return values, scales


def reference(x: torch.Tensor, kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain torch; values and scales are equal to the kernel's, bit by bit."""
    x = activation_matrix(x)
    (M, K), wide = x.shape, x.to(torch.float32)
    group = BLOCK if kind == "fp8-blocks" else max(K, 1)
    padded = torch.nn.functional.pad(wide, (0, -K % group)).view(M, -(-K // group), group)
    largest = INT8_MAX if kind == "int8-tokens" else FP8_MAX
    peak = padded.abs().amax(2, keepdim=True) if K else padded.new_zeros(M, 0, 1)
    scale = torch.where(peak > 0, (peak / largest).clamp(min=_SMALLEST), 1.0)
    scale = torch.where(torch.isfinite(peak), scale, torch.nan)
    scaled = torch.nan_to_num(padded * (1.0 / scale), nan=0.0).clamp(-largest, largest)
    if kind == "int8-tokens":
        scaled = torch.round(scaled)
    values, scales = _empty(x, kind)
    values.copy_(scaled.view(M, -1)[:, :K].to(values.dtype))
    scales.copy_(scale.view(scales.shape))
    return values, scales


def _empty(x: torch.Tensor, kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
    M, K = x.shape
    dtype = torch.int8 if kind == "int8-tokens" else torch.float8_e4m3fn
    shape = (M, -(-K // BLOCK)) if kind == "fp8-blocks" else (M,)
    return (
        x.new_empty(M, K, dtype=dtype),
        x.new_empty(shape, dtype=torch.float32),
    )


@torch.library.custom_op("deepseek::int8_tokens", mutates_args=(), device_types="cpu")
def int8_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Int8 values and a scale for each token of ``x [M, K]``."""
    return reference(x, "int8-tokens")


@torch.library.custom_op("deepseek::fp8_tokens", mutates_args=(), device_types="cpu")
def fp8_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float8_e4m3fn values and a scale for each token of ``x [M, K]``."""
    return reference(x, "fp8-tokens")


@torch.library.custom_op("deepseek::fp8_blocks", mutates_args=(), device_types="cpu")
def fp8_blocks(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float8_e4m3fn values and a scale for each 128 features of each token of ``x [M, K]``."""
    return reference(x, "fp8-blocks")


int8_tokens.register_kernel("cuda", lambda x: launch(x, "int8-tokens"))
int8_tokens.register_fake(lambda x: _empty(x, "int8-tokens"))
fp8_tokens.register_kernel("cuda", lambda x: launch(x, "fp8-tokens"))
fp8_tokens.register_fake(lambda x: _empty(x, "fp8-tokens"))
fp8_blocks.register_kernel("cuda", lambda x: launch(x, "fp8-blocks"))
fp8_blocks.register_fake(lambda x: _empty(x, "fp8-blocks"))
