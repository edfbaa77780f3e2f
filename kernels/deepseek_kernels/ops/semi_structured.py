"""2:4 pruning: of every four weights along K the two largest magnitudes stay.

Why it exists: tensor cores since Ampere skip the zeros of this pattern. Triton has no sparse
product, so this kernel only prunes; ``deepseek_kernels.semi_structured`` multiplies. Magnitude
pruning costs accuracy unless the model is trained on afterwards: nothing applies it unasked.

Equal magnitudes: the one with the lower index stays. A group of four with fewer than two numbers
other than zero keeps what it has.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.elementwise import (
    check_float,
    on_device_of,
)

__all__ = ["launch", "prune_2_4", "reference"]

_BLOCK = 256
"""Groups of four in one program."""


def prune_2_4(weight: Tensor) -> Tensor:
    """Set two of every four weights along the last axis to zero: the two smallest magnitudes.

    Args:
        weight: float32, float16 or bfloat16 of any strides, last axis a multiple of 4; it is not
            changed, and a parameter is taken without its gradient.

    Returns:
        The pruned weights, contiguous.

    Raises:
        KernelArgumentError: another type, a last axis that is no multiple of 4, NaN or infinity.
    """
    check_float("weight", weight)
    if weight.dim() == 0 or weight.shape[-1] % 4:
        raise KernelArgumentError(
            f"weight: has the shape {list(weight.shape)}; make the last axis a multiple of 4"
        )
    if not bool(weight.isfinite().all()):
        raise KernelArgumentError("weight: holds NaN or infinity; prune finite weights only")
    result: Tensor = _operation(weight.detach())
    return result


def reference(weight: Tensor) -> Tensor:
    """The pruned weights in plain torch."""
    groups = weight.reshape(-1, 4)
    # A stable sort keeps the order of equal magnitudes.
    order = groups.float().abs().sort(dim=1, descending=True, stable=True).indices
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, :2], True)
    return torch.where(keep, groups, torch.zeros_like(groups)).reshape(weight.shape).contiguous()


@triton.jit
def _kernel(
    w_ptr: tl.tensor, pruned_ptr: tl.tensor, groups: tl.tensor, BLOCK: tl.constexpr
) -> None:
    group = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, 4)
    at = group[:, None] * 4 + lane[None, :]
    inside = (group < groups)[:, None]
    w = tl.load(w_ptr + at, mask=inside, other=0.0)
    size = tl.abs(w.to(tl.float32))
    # A weight's rank is the number of weights of its group that go before it.
    rank = tl.zeros((BLOCK, 4), tl.int32)
    for other in tl.static_range(4):
        theirs = tl.sum(tl.where(lane[None, :] == other, size, 0.0), 1)[:, None]
        before = (theirs > size) | ((theirs == size) & (lane[None, :] > other))
        rank += before.to(tl.int32)
    tl.store(pruned_ptr + at, tl.where(rank < 2, w, 0.0), mask=inside)


def launch(weight: Tensor) -> Tensor:
    """The pruned weights by the Triton kernel; the arguments were checked by ``prune_2_4``."""
    weight = weight.contiguous()
    pruned = torch.empty_like(weight)
    groups = weight.numel() // 4
    if groups:
        with on_device_of(weight):
            _kernel[(triton.cdiv(groups, _BLOCK),)](weight, pruned, groups, BLOCK=_BLOCK)
    return pruned


@torch.library.custom_op("deepseek::prune_2_4", mutates_args=(), device_types="cpu")
def _operation(weight: Tensor) -> Tensor:
    return reference(weight)


_operation.register_kernel("cuda")(launch)


@_operation.register_fake
def _shapes(weight: Tensor) -> Tensor:
    return weight.new_empty(weight.shape)
