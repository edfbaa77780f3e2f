"""Quantize activations while the model runs: a scale for each token, or for 128 of its features.

Shapes: ``x [M, K]`` float16, bfloat16 or float32. Results are contiguous:

- ``int8_tokens``: int8 ``[M, K]`` and float32 ``[M]``, scale = largest magnitude / 127;
- ``fp8_tokens``: float8_e4m3fn ``[M, K]`` and float32 ``[M]``, scale = largest magnitude / 448;
- ``fp8_blocks``: float8_e4m3fn ``[M, K]`` and float32 ``[M, ceil(K / 128)]``.

Values are multiplied by 1 / scale in float32; the rule for scales and rounding is that of
``deepseek_kernels.rounding``. A token with a NaN or an infinite value gets the scale NaN, so that
everything computed from it is NaN, as it would be without quantizing, and its batch mates are not
touched.
"""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl

from deepseek_kernels.ops.common import activation_matrix, device_of, require_fp8_support
from deepseek_kernels.ops.elementwise import magnitude, round_to, symmetric_scale
from deepseek_kernels.rounding import LIMITS, quantize_rows
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
_ONE_PASS = 8192
"""Features of a token that one program keeps in registers."""


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
    scale = symmetric_scale(tl.max(magnitude(wide), 1), LARGEST)
    rounded = round_to(wide * (1.0 / scale)[:, None], LARGEST, INTEGER)
    tl.store(values + at * K + k[None, :], rounded, mask=mask)
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
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        wide = tl.load(x + row * stride_x + k, mask=k < K, other=0.0).to(tl.float32)
        peaks = tl.maximum(peaks, magnitude(wide))
    scale = symmetric_scale(tl.max(peaks, 0), LARGEST)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        wide = tl.load(x + row * stride_x + k, mask=k < K, other=0.0).to(tl.float32)
        rounded = round_to(wide * (1.0 / scale), LARGEST, INTEGER)
        tl.store(values + row * K + k, rounded, mask=k < K)
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
        return values, scales.fill_(1.0)
    integer = kind == "int8-tokens"
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
                LARGEST=LIMITS[values.dtype],
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
                LARGEST=LIMITS[values.dtype],
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
    if kind != "fp8-blocks":
        return quantize_rows(wide, torch.int8 if kind == "int8-tokens" else torch.float8_e4m3fn)
    groups = -(-K // BLOCK)
    padded = torch.nn.functional.pad(wide, (0, groups * BLOCK - K)).view(M, groups, BLOCK)
    values, scales = quantize_rows(padded, torch.float8_e4m3fn)
    return values.flatten(1)[:, :K].contiguous(), scales


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
