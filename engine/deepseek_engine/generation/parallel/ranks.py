"""From a rank's number to its process groups: the one place that chooses what moves the bytes.

Why it exists: everything else works on a `torch.distributed.ProcessGroup`. Groups are made from a
store directly and not through the process-wide default group, because a process may hold several
sharded models, and one of them may be opened again while the others go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from deepseek_api.errors import DeviceError

from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.splits import invalid_parallelism

__all__ = ["Placement", "close_context", "library_of", "open_context"]

_LOOPBACK = "127.0.0.1"
# Type information covers neither all of these names nor their options.
c10d: Any = dist
Store = Any
"""A ``torch.distributed.Store``: keys and values that all ranks see."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """How a model is divided, and which rank this is.

    Raises:
        ConfigurationError: a size is below 1, or the rank is not one of the group's.
    """

    rank: int = 0
    tensor_size: int = 1
    pipeline_size: int = 1

    def __post_init__(self) -> None:
        sizes = f"tensor {self.tensor_size}, pipeline {self.pipeline_size}"
        if self.tensor_size < 1 or self.pipeline_size < 1:
            raise invalid_parallelism(
                f"A model cannot be divided by {sizes}.", "Use 1 or more for each."
            )
        if not 0 <= self.rank < self.world_size:
            raise invalid_parallelism(
                f"Rank {self.rank} does not exist with {sizes}.",
                f"Ranks are 0 to {self.world_size - 1}.",
            )

    @property
    def world_size(self) -> int:
        """Processes of the group."""
        return self.tensor_size * self.pipeline_size


def library_of(device: torch.device) -> str:
    """What moves tensors of a device: ``nccl`` on NVIDIA GPUs, ``gloo`` elsewhere."""
    return "nccl" if device.type == "cuda" else "gloo"


def open_context(
    store: Store,
    placement: Placement,
    *,
    device: torch.device,
    timeout_s: float,
    local: bool = True,
) -> ParallelContext:
    """Meet the other ranks; every rank must call it.

    Args:
        store: that all ranks see, with keys of its own for this group.
        placement: which rank this is.
        device: where the tensors lie that will be exchanged.
        timeout_s: after so many seconds an exchange fails whose partners do not come.
        local: whether all ranks are on this machine; then nothing listens on its network.

    Raises:
        DeviceError: this build of torch cannot exchange tensors of the device.
    """
    tensor_rank = placement.rank % placement.tensor_size
    pipeline_rank = placement.rank // placement.tensor_size

    def group(name: str, rank: int, size: int) -> dist.ProcessGroup | None:
        if size == 1:
            return None
        own = c10d.PrefixStore(name, store)
        return open_group(own, rank, size, device=device, timeout_s=timeout_s, local=local)

    return ParallelContext(
        tensor_rank=tensor_rank,
        tensor_size=placement.tensor_size,
        pipeline_rank=pipeline_rank,
        pipeline_size=placement.pipeline_size,
        tensor_group=group(f"tensor-{pipeline_rank}", tensor_rank, placement.tensor_size),
        pipeline_group=group(f"pipeline-{tensor_rank}", pipeline_rank, placement.pipeline_size),
    )


def open_group(
    store: Store,
    rank: int,
    size: int,
    *,
    device: torch.device,
    timeout_s: float,
    local: bool = True,
) -> dist.ProcessGroup:
    """A process group of its own, known to nobody else in this process; see `open_context`."""
    library = library_of(device)
    timeout = timedelta(seconds=timeout_s)
    if library == "nccl":
        backend, kind = _nccl(store, rank, size, timeout), dist.ProcessGroup.BackendType.NCCL
    else:
        backend, kind = _gloo(store, rank, size, timeout, local), dist.ProcessGroup.BackendType.GLOO
    group = dist.ProcessGroup(store, rank, size)
    group._set_default_backend(kind)
    group._register_backend(torch.device(device.type), kind, backend)
    return group


def close_context(context: ParallelContext) -> None:
    """Abort what a context's groups still exchange, and leave them; safe from any thread."""
    for group in (context.tensor_group, context.pipeline_group):
        if group is not None:
            group.abort()


def _gloo(store: Store, rank: int, size: int, timeout: timedelta, local: bool) -> Any:
    options = c10d.ProcessGroupGloo._Options()
    options._timeout = timeout
    if local:
        options._devices = [c10d.ProcessGroupGloo.create_device(hostname=_LOOPBACK)]
    else:
        options._devices = [c10d.ProcessGroupGloo.create_default_device()]
    return c10d.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Store, rank: int, size: int, timeout: timedelta) -> Any:
    if not dist.is_nccl_available():
        raise DeviceError(
            "This build of torch cannot exchange tensors between GPUs.",
            hint="Install torch for CUDA, which brings NCCL.",
            reason="BackendUnavailable",
        )
    options = c10d.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return c10d.ProcessGroupNCCL(store, rank, size, options)
