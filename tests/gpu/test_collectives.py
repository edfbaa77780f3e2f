"""Exchanges between ranks on a real GPU, as far as one GPU can show them: a group of one rank."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def context() -> Any:
    import torch
    import torch.distributed as dist
    from deepseek_engine.generation.parallel.context import ParallelContext
    from deepseek_engine.generation.parallel.ranks import close_context, open_group

    device = torch.device("cuda:0")
    store: Any = dist.HashStore()  # type: ignore[attr-defined]
    group = open_group(store, 0, 1, device=device, timeout_s=60)
    # Two ranks by its own account, so that the exchanges are made; the group has this one alone.
    made = ParallelContext(tensor_size=2, tensor_group=group)
    yield made
    close_context(made)


def test_an_all_reduce_is_captured_in_a_graph_and_replayed(context: Any) -> None:
    import torch
    from deepseek_engine.generation.parallel.collectives import all_reduce

    vector = torch.zeros(4096, dtype=torch.bfloat16, device="cuda:0")
    # The first exchange makes the communicator, which cannot be captured.
    all_reduce(vector, context)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = all_reduce(vector * 2, context) + 1
    for value in (1.0, 3.0):
        vector.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        # A sum over one rank is that rank's summand.
        assert answer.eq(2 * value + 1).all()
    assert context.traffic.calls == {"all_reduce": 2}
    assert context.traffic.bytes == {"all_reduce": 2 * 4096 * 2}


def test_the_library_of_a_gpu_is_chosen_by_the_device() -> None:
    import torch
    from deepseek_engine.generation.parallel.ranks import library_of

    assert library_of(torch.device("cuda:0")) == "nccl"
    assert library_of(torch.device("cpu")) == "gloo"
