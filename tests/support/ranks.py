"""Ranks as threads of one process: real process groups over loopback, without starting Python."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.ranks import Placement, close_context, open_context

T = TypeVar("T")


def on_ranks(
    function: Callable[[ParallelContext], T], *, tensor: int = 1, pipeline: int = 1
) -> list[T]:
    """Run a function on every rank side by side; its results in the order of the ranks."""
    store: Any = dist.HashStore()  # type: ignore[attr-defined]

    def run(rank: int) -> T:
        placement = Placement(rank=rank, tensor_size=tensor, pipeline_size=pipeline)
        # What one rank fails with, the others must not wait for longer than this.
        context = open_context(store, placement, device=torch.device("cpu"), timeout_s=20)
        try:
            with torch.inference_mode():
                return function(context)
        finally:
            close_context(context)

    size = tensor * pipeline
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(run, range(size)))


def places(*, tensor: int = 1, pipeline: int = 1) -> list[ParallelContext]:
    """Contexts of all ranks, without groups: for what only divides."""
    return [
        ParallelContext(
            tensor_rank=rank % tensor,
            tensor_size=tensor,
            pipeline_rank=rank // tensor,
            pipeline_size=pipeline,
        )
        for rank in range(tensor * pipeline)
    ]
