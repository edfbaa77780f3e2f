"""Everything that ranks exchange while they compute, counted.

Why it exists: the cost of a sharded step is its number of exchanges, so that each is made here and
counted (`Traffic`). The functions take tensors and a `ParallelContext`; which library moves the
bytes is the group's business. With one rank they return what they were given and count nothing.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from deepseek_engine.generation.parallel.context import ParallelContext

__all__ = ["all_gather", "all_reduce", "receive", "send"]

_TAG = 0


def all_reduce(tensor: torch.Tensor, context: ParallelContext) -> torch.Tensor:
    """Sum a tensor over the tensor ranks, in place where its memory allows.

    Args:
        tensor: [...] of the same shape and dtype on every rank.
        context: who takes part.

    Returns:
        The sum, the same on every rank.
    """
    if context.tensor_size == 1:
        return tensor
    summed = tensor.contiguous()
    context.traffic.count("all_reduce", summed.nbytes)
    _group(context.tensor_group).allreduce([summed]).wait()
    return summed


def all_gather(tensor: torch.Tensor, context: ParallelContext) -> torch.Tensor:
    """Put the parts of the tensor ranks side by side along the last dimension.

    Args:
        tensor: [..., N] of the same shape and dtype on every rank.
        context: who takes part.

    Returns:
        [..., N * tensor_size], the same on every rank.
    """
    if context.tensor_size == 1:
        return tensor
    part = tensor.contiguous()
    context.traffic.count("all_gather", part.nbytes)
    parts = [torch.empty_like(part) for _ in range(context.tensor_size)]
    _group(context.tensor_group).allgather([parts], [part]).wait()
    return torch.cat(parts, dim=-1)


def send(tensor: torch.Tensor, stage: int, context: ParallelContext) -> dist.Work:
    """Begin to send a tensor to the same tensor rank of another stage.

    Args:
        tensor: contiguous; must not change before the work is done.
        stage: pipeline rank that receives.
        context: who takes part.

    Returns:
        The transfer; ``wait`` returns when the tensor may be used again.
    """
    context.traffic.count("send", tensor.nbytes)
    return _group(context.pipeline_group).send([tensor], stage, _TAG)


def receive(
    shape: tuple[int, ...],
    stage: int,
    context: ParallelContext,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Wait for a tensor of another stage.

    Args:
        shape: that the sender has; both sides know it from the step.
        stage: pipeline rank that sends.
        context: who takes part.
        dtype: of the tensor.
        device: where it shall lie.
    """
    tensor = torch.empty(shape, dtype=dtype, device=device)
    _group(context.pipeline_group).recv([tensor], stage, _TAG).wait()
    context.traffic.count("receive", tensor.nbytes)
    return tensor


def _group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    if group is None:
        raise ValueError("a context with several ranks computes only with a process group")
    return group
