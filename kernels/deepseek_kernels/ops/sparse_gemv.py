"""A product that skips weights whose activation is small: y = W x over the columns with |x| > t.

Why it exists: at batch one a linear layer is as fast as its weights can be read, and a column whose
activation is near zero need not be read. The idea, its thresholds from quantiles and its limits are
those of TEAL (Liu et al., "Training-Free Activation Sparsity in Large Language Models", 2024). Use
it for single tokens: the rows of a batch read the union of their columns, which soon is all of
them. At most 16 rows are taken.

Layout: weights lie K-major, ``[K, N]`` contiguous (``k_major`` makes it of the usual ``[N, K]``),
so that a skipped column of W is one unread run of memory. Every row is cut by its own activations,
so an answer does not depend on its batch mates. NaN counts as large and reaches the result. The sum
is float32 in a fixed order: runs are equal to the bit.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseek_kernels.configuration import KernelConfig, config_for
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.common import processors
from deepseek_kernels.ops.elementwise import (
    check_float,
    check_like,
    on_device_of,
)

__all__ = ["MAX_ROWS", "activation_threshold", "k_major", "launch", "reference", "sparse_gemv"]

MAX_ROWS = 16
"""Rows beyond which nothing is left to skip, and a dense product is the right call."""


def k_major(weight: Tensor) -> Tensor:
    """The weights ``[N, K]`` of a linear layer as ``[K, N]`` contiguous."""
    if weight.dim() != 2:
        raise KernelArgumentError(f"weight: has the shape {list(weight.shape)}; give [N, K]")
    return weight.detach().t().contiguous()


def activation_threshold(samples: Tensor, sparsity: float) -> float:
    """The threshold that makes this part of sampled activations count as zero.

    Args:
        samples: activations of any shape, from representative inputs.
        sparsity: the part to skip, 0 to below 1.

    Raises:
        KernelArgumentError: no samples, samples that are not finite, or a sparsity out of range.
    """
    if not 0 <= sparsity < 1:
        raise KernelArgumentError(f"sparsity: is {sparsity}; give 0 to below 1")
    check_float("samples", samples)
    if samples.numel() == 0 or not bool(samples.isfinite().all()):
        raise KernelArgumentError("samples: is empty or holds NaN or infinity; give finite numbers")
    rank = math.floor(sparsity * samples.numel())
    if rank == 0:
        return 0.0
    return float(samples.float().abs().flatten().kthvalue(rank).values)


def sparse_gemv(x: Tensor, weight: Tensor, threshold: float) -> Tensor:
    """Multiply rows by K-major weights, without the activations of magnitude up to a threshold.

    Args:
        x: [..., K], at most 16 rows in all; float32, float16 or bfloat16.
        weight: [K, N] contiguous (``k_major``), type of x.
        threshold: at least 0; 0 skips exact zeros only.

    Returns:
        [..., N] of the type of x.

    Raises:
        KernelArgumentError: shapes, types or layout do not fit, more than 16 rows, or a negative
            threshold.
    """
    check_float("x", x)
    if weight.dim() != 2 or x.dim() == 0 or weight.shape[0] != x.shape[-1]:
        raise KernelArgumentError(
            f"weight: {list(weight.shape)} does not fit x {list(x.shape)}; give x [..., K] and "
            "weight [K, N] (k_major makes it)"
        )
    check_like("weight", weight, tuple(weight.shape), x)
    if weight.dtype != x.dtype:
        raise KernelArgumentError(f"weight: is {weight.dtype}; convert it to {x.dtype}")
    if not weight.is_contiguous():
        raise KernelArgumentError("weight: is not contiguous, so nothing is saved; use k_major")
    if not 0 <= threshold < math.inf:
        raise KernelArgumentError(f"threshold: is {threshold}; give a finite number of at least 0")
    rows = math.prod(x.shape[:-1])
    if rows > MAX_ROWS:
        raise KernelArgumentError(f"x: has {rows} rows; above {MAX_ROWS} use a dense product")
    result: Tensor = _operation(x, weight, threshold)
    return result


def reference(x: Tensor, weight: Tensor, threshold: float) -> Tensor:
    """The product in plain torch, accumulated in float32."""
    wide = x.float()
    small = wide.abs() <= torch.tensor(threshold, dtype=torch.float32)
    return (wide.masked_fill(small, 0.0) @ weight.float()).to(x.dtype)


@triton.jit
def _kernel(
    x_ptr: tl.tensor,
    w_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    rows: tl.tensor,
    K: tl.tensor,
    N: tl.tensor,
    threshold: tl.tensor,
    blocks_k: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    part = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, BLOCK_N), tl.float32)
    for block in range(part * blocks_k, (part + 1) * blocks_k):
        k = block * BLOCK_K + tl.arange(0, BLOCK_K)
        held = (row < rows)[:, None] & (k < K)[None, :]
        x = tl.load(x_ptr + row[:, None] * K + k[None, :], mask=held, other=0.0)
        # Written so that NaN, which compares as nothing, is large.
        large = held & ((tl.abs(x.to(tl.float32)) <= threshold) == 0)
        x = tl.where(large, x, 0.0).to(x.dtype)
        read = tl.max(large.to(tl.int32), 0) > 0
        source = w_ptr + k[:, None].to(tl.int64) * N + column[None, :]
        w = tl.load(source, mask=read[:, None] & (column < N)[None, :], other=0.0)
        if ROWS == 1:
            wide = tl.reshape(x, (BLOCK_K, 1)).to(tl.float32)
            total += tl.sum(wide * w.to(tl.float32), 0)[None, :]
        else:
            total = tl.dot(x, w, total, input_precision="ieee")
    target = (part * rows + row)[:, None].to(tl.int64) * N + column[None, :]
    tl.store(partial_ptr + target, total, mask=(row < rows)[:, None] & (column < N)[None, :])


def launch(
    x: Tensor, weight: Tensor, threshold: float, config: KernelConfig | None = None
) -> Tensor:
    """The product by the Triton kernel; the arguments were checked by ``sparse_gemv``.

    ``config`` overrides the tiles of the GPU's table: ``block_n``, ``block_k``, ``split_k``.
    """
    size, width = weight.shape
    flat = x.reshape(-1, size).contiguous()
    rows = len(flat)
    if rows == 0 or width == 0 or size == 0:
        return x.new_zeros((*x.shape[:-1], width))
    config = config or config_for("sparse_gemv", rows, width, size, x.device)
    blocks_n, blocks_k = triton.cdiv(width, config.block_n), triton.cdiv(size, config.block_k)
    each = triton.cdiv(blocks_k, config.parts(blocks_n, blocks_k, processors(x.device)))
    parts = triton.cdiv(blocks_k, each)
    partial = torch.empty((parts, rows, width), dtype=torch.float32, device=x.device)
    with on_device_of(x):
        _kernel[(parts, blocks_n)](
            flat,
            weight,
            partial,
            rows,
            size,
            width,
            threshold,
            each,
            ROWS=1 if rows == 1 else MAX_ROWS,
            BLOCK_K=config.block_k,
            BLOCK_N=config.block_n,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return partial.sum(dim=0).to(x.dtype).reshape(*x.shape[:-1], width)


@torch.library.custom_op("deepseek::sparse_gemv", mutates_args=(), device_types="cpu")
def _operation(x: Tensor, weight: Tensor, threshold: float) -> Tensor:
    return reference(x, weight, threshold)


_operation.register_kernel("cuda")(launch)


@_operation.register_fake
def _shapes(x: Tensor, weight: Tensor, threshold: float) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[1]))
