"""The product of 8-bit activations and 8-bit weights whose scales belong to whole rows.

Why it exists: int8 (``w8a8``) and float8_e4m3fn (``fp8_row``) differ in nothing but the type of
their sums, so both launch this kernel. Call those, not this.

Int8 sums are exact in int32. On Hopper, tensor cores add float8 products with fewer bits than
float32; with FAST false the partial sums of 128 products are added in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from deepseek_kernels.configuration import KernelConfig
from deepseek_kernels.ops.common import device_of, finish

__all__ = ["multiply", "product_kernel", "tile_of"]


@triton.jit
def tile_of(
    M: tl.tensor, N: tl.tensor, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr
) -> tl.tensor:
    """Rows and columns of this program's tile; GROUP_M rows of tiles walk along N together."""
    across = tl.cdiv(N, BLOCK_N)
    first = tl.program_id(0) // (GROUP_M * across) * GROUP_M
    together = tl.minimum(tl.cdiv(M, BLOCK_M) - first, GROUP_M)
    within = tl.program_id(0) % (GROUP_M * across)
    rows = (first + within % together) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = within // together * BLOCK_N + tl.arange(0, BLOCK_N)
    return rows, columns


@triton.jit
def product_kernel(
    x: tl.tensor,
    weights: tl.tensor,
    x_scale: tl.tensor,
    w_scale: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    INTEGER: tl.constexpr,
    FAST: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
) -> None:
    """One program: a tile of ``x [M, K]`` times ``weights [N, K]`` transposed."""
    rows, columns = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    k = tl.arange(0, BLOCK_K)
    left_at = x + rows[:, None] * K + k[None, :]
    right_at = weights + columns[None, :] * K + k[:, None]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if INTEGER else tl.float32)
    for start in range(0, K, BLOCK_K):
        inside = k < K - start
        left = tl.load(left_at + start, mask=(rows < M)[:, None] & inside[None, :], other=0.0)
        right = tl.load(right_at + start, mask=(columns < N)[None, :] & inside[:, None], other=0.0)
        if INTEGER:
            total = tl.dot(left, right, total, out_dtype=tl.int32)
        elif FAST:
            total = tl.dot(left, right, total)
        else:
            total = tl.dot(left, right, total, max_num_imprecise_acc=128)
    left_scale = tl.load(x_scale + rows, mask=rows < M, other=0.0)[:, None]
    right_scale = tl.load(w_scale + columns, mask=columns < N, other=0.0)[None, :]
    scaled = total.to(tl.float32) * left_scale * right_scale
    mask = (rows < M)[:, None] & (columns < N)[None, :]
    scaled = finish(scaled, bias + columns[None, :], (columns < N)[None, :], HAS_BIAS, GELU)
    to = out + rows.to(tl.int64)[:, None] * N + columns[None, :]
    tl.store(to, scaled.to(out.dtype.element_ty), mask=mask)


def multiply(
    values: torch.Tensor,
    scale: torch.Tensor,
    weights: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    gelu: bool,
    config: KernelConfig,
    fast: bool = False,
) -> None:
    """Write ``(values [M, K] * scale [M]) (weights [N, K] * weight_scale [N, 1])^T`` to ``out``.

    Everything is contiguous and checked by the caller; ``out [M, N]`` may have any float dtype.
    """
    (M, K), N = values.shape, weights.shape[0]
    tiles = triton.cdiv(M, config.block_m) * triton.cdiv(N, config.block_n)
    with device_of(values):
        product_kernel[(tiles,)](
            values,
            weights,
            scale,
            weight_scale,
            out if bias is None else bias,
            out,
            M,
            N,
            K,
            INTEGER=values.dtype == torch.int8,
            FAST=fast,
            HAS_BIAS=bias is not None,
            GELU=gelu,
            BLOCK_M=config.block_m,
            BLOCK_N=config.block_n,
            BLOCK_K=config.block_k,
            GROUP_M=config.group_m,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
