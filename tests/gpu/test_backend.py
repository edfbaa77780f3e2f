"""Graphs, memory and dynamic precision of the torch back end on a real GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest


def model() -> Any:
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    table = torch.nn.Embedding(100, 64)
    module = torch.nn.ModuleList([table, layer]).cuda().eval()

    def call(tensors: Mapping[str, Any]) -> dict[str, Any]:
        hidden = module[1](
            module[0](tensors["input_ids"]), src_key_padding_mask=tensors["attention_mask"] == 0
        )
        return {"hidden": hidden}

    return call


def text(rows: int, tokens: int) -> dict[str, Any]:
    ids = np.random.default_rng(rows + tokens).integers(1, 100, (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def runner_of(call: Any) -> Any:
    import torch
    from deepseek_engine.backends.torch.buckets import Buckets
    from deepseek_engine.backends.torch.cuda_graphs import CudaGraphs
    from deepseek_engine.backends.torch.graphs import GraphRunner
    from deepseek_engine.messages import TensorSpec

    inputs = [TensorSpec(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask")]
    outputs = [TensorSpec("hidden", "FP32", (-1, -1, 64))]
    buckets = Buckets(inputs, sizes=(1, 2, 4), lengths=(16, 32))
    return GraphRunner(CudaGraphs(torch, call, "cuda:0"), buckets, outputs, capacity=8)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 16), (1, 5), (3, 20), (4, 32)])
def test_a_captured_graph_answers_as_the_module_does(rows: int, tokens: int) -> None:
    call = model()
    runner = runner_of(call)
    runner.warm()
    assert len(runner.captured) == 6
    batch = text(rows, tokens)
    wanted = runner._runtime.eager(batch)["hidden"]
    for _ in range(3):
        np.testing.assert_allclose(runner.run(batch)["hidden"], wanted, atol=1e-4)
    assert not runner.fallbacks
    runner.close()


def test_a_module_that_cannot_be_captured_runs_eagerly() -> None:
    inner = model()

    def call(tensors: Mapping[str, Any]) -> dict[str, Any]:
        # A copy to the host inside the module cannot be captured.
        assert tensors["input_ids"].max().item() >= 0
        return dict(inner(tensors))

    runner = runner_of(call)
    runner.warm()
    assert runner.captured == ()
    answer = runner.run(text(2, 16))["hidden"]
    assert answer.shape == (2, 16, 64)
    assert runner.fallbacks == {"capture-failed": 1}


def test_the_memory_of_a_gpu_is_limited_and_told() -> None:
    import torch
    from deepseek_engine.backends.torch.memory import CudaMemory

    mib = 1024 * 1024
    memory = CudaMemory(0)
    size = torch.cuda.memory_reserved() + 512 * mib
    try:
        memory.configure(size, shared=True)
        stats = memory.stats()
        assert stats.pool_bytes == size
        assert stats.reserved_bytes >= 512 * mib
        assert 0 <= stats.fragmentation <= 1
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(2 * size, dtype=torch.uint8, device="cuda")
        assert memory.stats().ooms >= 1
    finally:
        memory.configure(0, shared=True)
