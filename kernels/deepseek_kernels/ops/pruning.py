"""Threshold pruning: weights of small magnitude become zero.

Why it exists: magnitude pruning is the simplest way to find out how much of a matrix a model can
do without. It makes no dense product faster: what it gives is fewer bytes in storage that skips
zeros. For sparsity that a GPU can use see ``semi_structured`` (weights) and ``sparse_gemv``
(activations).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.elementwise import (
    check_float,
    on_device_of,
)

__all__ = ["dynamic_pruning", "launch", "reference"]

_BLOCK = 1024


def dynamic_pruning(weight_matrix: Tensor, threshold: float = 0.1) -> tuple[Tensor, float]:
    """Keep the weights with ``|w| > threshold`` and set the others to zero.

    Args:
        weight_matrix: float32, float16 or bfloat16 of any shape and strides; it is not changed,
            and a parameter is taken without its gradient.
        threshold: at least 0; compared in float32, whatever the type of the weights.

    Returns:
        The pruned weights, contiguous, and their sparsity: the part of them that is zero, 0.0 for
        an empty matrix.

    Raises:
        KernelArgumentError: the weights have another type or hold NaN or infinity, or the
            threshold is negative or not a number.
    """
    check_float("weight_matrix", weight_matrix)
    if not 0 <= threshold < math.inf:
        raise KernelArgumentError(f"threshold: is {threshold}; give a finite number of at least 0")
    pruned, counts = _operation(weight_matrix.detach(), threshold)
    kept, unusable = counts.tolist()
    if unusable:
        raise KernelArgumentError(
            f"weight_matrix: holds NaN or infinity in {unusable} places; give finite weights only"
        )
    return pruned, 1.0 - kept / pruned.numel() if pruned.numel() else 0.0


def reference(weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Pruned weights and int64[2] (kept, not finite) in plain torch."""
    keep = weight.float().abs() > torch.tensor(threshold, dtype=torch.float32)
    pruned = torch.where(keep, weight, torch.zeros_like(weight)).contiguous()
    counts = torch.stack([keep.sum(), weight.numel() - weight.isfinite().sum()])
    return pruned, counts


@triton.jit
def _kernel(
    w_ptr: tl.tensor,
    pruned_ptr: tl.tensor,
    counts_ptr: tl.tensor,
    count: tl.tensor,
    threshold: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    program = tl.program_id(0).to(tl.int64)
    at = program * BLOCK + tl.arange(0, BLOCK)
    w = tl.load(w_ptr + at, mask=at < count, other=0.0)
    size = tl.abs(w.to(tl.float32))
    keep = size > threshold
    unusable = (size != size) | (size == float("inf"))
    tl.store(pruned_ptr + at, tl.where(keep, w, 0.0), mask=at < count)
    tl.store(counts_ptr + program * 2, tl.sum(keep.to(tl.int32), 0))
    tl.store(counts_ptr + program * 2 + 1, tl.sum(unusable.to(tl.int32), 0))


def launch(weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Pruned weights and int64[2] (kept, not finite) by the Triton kernel."""
    weight = weight.contiguous()
    pruned = torch.empty_like(weight)
    programs = triton.cdiv(weight.numel(), _BLOCK)
    # A count for each program, added up afterwards: the same sum every time, without atomics.
    counts = torch.empty((programs, 2), dtype=torch.int32, device=weight.device)
    if programs:
        with on_device_of(weight):
            _kernel[(programs,)](weight, pruned, counts, weight.numel(), threshold, BLOCK=_BLOCK)
    return pruned, counts.sum(dim=0)


@torch.library.custom_op("deepseek::threshold_prune", mutates_args=(), device_types="cpu")
def _operation(weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    return reference(weight, threshold)


_operation.register_kernel("cuda")(launch)


@_operation.register_fake
def _shapes(weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    return weight.new_empty(weight.shape), weight.new_empty((2,), dtype=torch.int64)
