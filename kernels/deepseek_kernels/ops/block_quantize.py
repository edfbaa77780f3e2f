"""Symmetric int8 in square blocks: a scale for every 64 x 64 block of a matrix.

Why it exists: blocks along both axes keep an outlier's damage inside its block, and the same
scales serve a matrix and its transpose. Made for weights, once, before serving: the check for NaN
waits for the device. Activations are quantized by rows (``norm_quantize``, ``silu_mul_quantize``).

Layout: blocks divide the last two axes; axes before them are a batch. A vector is one row, so its
blocks are runs of ``block_size`` values. Blocks at the edges are smaller when the block size does
not divide the axis. With R rows and C columns the scales are float32[..., ceil(R/b), ceil(C/b)],
for a vector float32[ceil(C/b)]. ``w ~ values * scale`` with an error of at most half a scale; the
rule for zeros, subnormal numbers and NaN is that of ``deepseek_kernels.rounding``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.elementwise import (
    check_float,
    magnitude,
    on_device_of,
    round_to,
    symmetric_scale,
)
from deepseek_kernels.rounding import quantize_blocks

__all__ = ["MAX_BLOCK", "BlockQuantized", "block_quantize", "launch", "reference"]

MAX_BLOCK = 128
"""A program of the kernel holds one block in registers, so that memory is read once."""


@dataclass(frozen=True, slots=True)
class BlockQuantized:
    """int8 values with all that is needed to turn them back into numbers."""

    values: Tensor
    """int8, shape of the tensor that was quantized, in [-127, 127]."""
    scales: Tensor
    """float32, one for each block."""
    block_size: int
    dtype: torch.dtype
    """Type of the tensor that was quantized."""

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor that was quantized."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scales.nbytes

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers that the values stand for, in ``dtype`` (default: the original type)."""
        scales = self.scales
        for axis in range(-min(2, self.values.dim()), 0):
            size = self.values.shape[axis]
            scales = scales.repeat_interleave(self.block_size, dim=axis).narrow(axis, 0, size)
        # 127 * (largest / 127) may round past the largest float32.
        limit = torch.finfo(torch.float32).max
        numbers = (self.values * scales).clamp(-limit, limit)
        return numbers.to(self.dtype if dtype is None else dtype)


def block_quantize(tensor: Tensor, block_size: int = 64) -> BlockQuantized:
    """Quantize a tensor to int8 in square blocks.

    Args:
        tensor: float32, float16 or bfloat16 of one or more axes, of any strides; a parameter is
            taken without its gradient.
        block_size: side of a block, 1 to 128.

    Raises:
        KernelArgumentError: the tensor has no axis, another type, or holds NaN or infinity; or the
            block size is out of range.
    """
    check_float("tensor", tensor)
    if tensor.dim() == 0:
        raise KernelArgumentError(
            "tensor: has no axis, so it has no blocks; give tensor.reshape(1) for a single number"
        )
    if not 1 <= block_size <= MAX_BLOCK:
        raise KernelArgumentError(f"block_size: is {block_size}; give 1 to {MAX_BLOCK}")
    values, scales = _operation(tensor.detach(), block_size)
    if bool(scales.isnan().any()):
        where = tuple(scales.isnan().nonzero()[0].tolist())
        raise KernelArgumentError(
            f"tensor: holds NaN or infinity, first in the block {where}; give finite numbers only"
        )
    return BlockQuantized(values, scales, block_size, tensor.dtype)


def reference(tensor: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Values and scales in plain torch, computed in float32.

    A block with NaN or infinity gets the scale NaN and the values 0.
    """
    matrix = tensor.float()[None] if tensor.dim() == 1 else tensor.float()
    values, scales = quantize_blocks(matrix, block_size)
    return values.reshape(tensor.shape), scales.reshape(_scales_shape(tensor, block_size))


@triton.jit
def _kernel(
    x_ptr: tl.tensor,
    values_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    blocks: tl.tensor,
    across: tl.tensor,
    stride_batch: tl.tensor,
    stride_row: tl.tensor,
    stride_column: tl.tensor,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    block = tl.program_id(0) % blocks
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    inside = tl.arange(0, TILE)
    row = ((block // across) * BLOCK_SIZE + inside)[:, None].to(tl.int64)
    column = ((block % across) * BLOCK_SIZE + inside)[None, :].to(tl.int64)
    mask = (inside < BLOCK_SIZE)[:, None] & (inside < BLOCK_SIZE)[None, :]
    mask = mask & (row < rows) & (column < columns)
    source = x_ptr + batch * stride_batch + row * stride_row + column * stride_column
    x = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    largest = tl.max(tl.max(magnitude(x), 1), 0)
    scale = symmetric_scale(largest, 127.0)
    quantized = round_to(tl.div_rn(x, scale), 127.0, True)
    tl.store(values_ptr + (batch * rows + row) * columns + column, quantized, mask=mask)
    tl.store(scales_ptr + tl.program_id(0), tl.where(largest == 0.0, 0.0, scale))


def launch(tensor: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Values and scales by the Triton kernel; the arguments were checked by ``block_quantize``."""
    values = torch.empty(tensor.shape, dtype=torch.int8, device=tensor.device)
    scales = torch.empty(
        _scales_shape(tensor, block_size), dtype=torch.float32, device=tensor.device
    )
    if tensor.numel() == 0:
        return values, scales
    matrix = tensor[None] if tensor.dim() == 1 else tensor
    rows, columns = matrix.shape[-2:]
    matrix = matrix.reshape(-1, rows, columns)
    across = _blocks(columns, block_size)
    blocks = _blocks(rows, block_size) * across
    tile = triton.next_power_of_2(block_size)
    with on_device_of(tensor):
        _kernel[(blocks * len(matrix),)](
            matrix,
            values,
            scales,
            rows,
            columns,
            blocks,
            across,
            *matrix.stride(),
            BLOCK_SIZE=block_size,
            TILE=tile,
            num_warps=8 if tile == MAX_BLOCK else 4,
        )
    return values, scales


@torch.library.custom_op("deepseek::block_quantize", mutates_args=(), device_types="cpu")
def _operation(tensor: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    return reference(tensor, block_size)


_operation.register_kernel("cuda")(launch)


@_operation.register_fake
def _shapes(tensor: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    return (
        tensor.new_empty(tensor.shape, dtype=torch.int8),
        tensor.new_empty(_scales_shape(tensor, block_size), dtype=torch.float32),
    )


def _blocks(size: int, block_size: int) -> int:
    return -(-size // block_size)


def _scales_shape(tensor: Tensor, block_size: int) -> tuple[int, ...]:
    blocked = min(2, tensor.dim())
    lead = tensor.shape[: tensor.dim() - blocked]
    return (*lead, *(_blocks(size, block_size) for size in tensor.shape[tensor.dim() - blocked :]))
