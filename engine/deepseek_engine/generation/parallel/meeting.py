"""How the ranks of a group find each other: a store on rank 0's machine.

Why it exists: leader and ranks take the same steps in the same order, and the store's address is
the only thing that would differ between one machine and several.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch

from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.control import Configure
from deepseek_engine.generation.parallel.environment import RankEnvironment
from deepseek_engine.generation.parallel.ranks import Placement, c10d, open_context
from deepseek_engine.generation.parallel.shard import Shard, find_loader

__all__ = ["LOOPBACK", "host_store", "join", "meet"]

LOOPBACK = "127.0.0.1"


def host_store(timeout_s: float) -> Any:
    """A store of this process, on a free port of the loopback interface."""
    return c10d.TCPStore(
        LOOPBACK, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s)
    )


def meet(store: Any, configure: Configure, rank: int, device: torch.device) -> ParallelContext:
    """Open a rank's groups; waits for the other ranks."""
    placement = Placement(
        rank=rank, tensor_size=configure.tensor_size, pipeline_size=configure.pipeline_size
    )
    return open_context(
        store,
        placement,
        device=device,
        timeout_s=configure.timeout_s,
        local=getattr(store, "host", LOOPBACK) == LOOPBACK,
    )


def join(configure: Configure, place: RankEnvironment, device: torch.device) -> Shard:
    """Meet the others as the environment says, and load this rank's part."""
    store = c10d.TCPStore(place.address, place.port, timeout=timedelta(seconds=configure.timeout_s))
    context = meet(store, configure, place.rank, device)
    arguments: Mapping[str, Any] = configure.arguments
    return find_loader(configure.loader)(arguments, context, device)
