"""Capturing and replaying a real module over a stand-in for the CUDA runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from deepseek_engine.backends.torch.buckets import Bucket, Buckets
from deepseek_engine.backends.torch.cuda_graphs import CudaGraphs
from deepseek_engine.backends.torch.graphs import CaptureError, GraphRunner
from deepseek_engine.messages import TensorSpec

from tests.support.fake_cuda import FakeTorch

pytestmark = pytest.mark.timeout(300)

TEXT = (
    TensorSpec("input_ids", "INT64", (-1, -1)),
    TensorSpec("attention_mask", "INT64", (-1, -1)),
)
HIDDEN = (TensorSpec("hidden", "FP32", (-1, -1, 16)),)


class Attention(torch.nn.Module):
    """An embedding and one masked attention layer: the smallest model that padding can hurt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(50, 16)
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        x = self.table(tensors["input_ids"])
        hidden, _ = self.attention(
            x, x, x, key_padding_mask=tensors["attention_mask"] == 0, need_weights=False
        )
        return {"hidden": hidden}


def text(rows: int, tokens: int) -> dict[str, Any]:
    ids = np.random.default_rng(rows * tokens).integers(1, 50, (rows, tokens))
    mask = np.ones_like(ids)
    mask[0, max(1, tokens - 2) :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def fake() -> FakeTorch:
    return FakeTorch()


def runner_of(fake: FakeTorch) -> GraphRunner:
    call = fake.cuda.recorded(Attention().eval())
    graphs = CudaGraphs(fake, call, "cpu", pinned=False)
    buckets = Buckets(TEXT, sizes=(1, 2, 4), lengths=(8, 16))
    return GraphRunner(graphs, buckets, HIDDEN, capacity=16)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 8), (1, 3), (3, 9), (4, 16), (2, 1)], ids=str)
def test_a_padded_graph_answers_as_the_module_does(fake: FakeTorch, rows: int, tokens: int) -> None:
    runner = runner_of(fake)
    runner.warm()
    batch = text(rows, tokens)
    with torch.inference_mode():
        wanted = Attention().eval()({n: torch.tensor(a) for n, a in batch.items()})["hidden"]
    for _ in range(2):
        runner.run(text(4, 16))  # leaves its traces in the static inputs
        answer = runner.run(batch)["hidden"]
        np.testing.assert_allclose(answer, wanted.numpy(), atol=1e-5)
        assert np.isfinite(answer).all()
    assert sum(graph.replays for graph in fake.cuda.graphs) == 4


@pytest.mark.parametrize(
    ("error", "reason", "emptied"),
    [
        pytest.param(torch.cuda.OutOfMemoryError("no"), "out-of-memory", 1, id="out of memory"),
        pytest.param(RuntimeError("a copy to the host"), "capture-failed", 0, id="not capturable"),
        pytest.param(ValueError("x: is float64"), "capture-failed", 0, id="a kernel refuses"),
        pytest.param(Exception("shared memory"), "capture-failed", 0, id="a kernel does not fit"),
    ],
)
def test_a_failure_while_capturing_is_told_by_its_reason(
    fake: FakeTorch, error: Exception, reason: str, emptied: int
) -> None:
    def call(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        if fake.cuda.capturing is not None:
            raise error
        return {"hidden": tensors["input_ids"].float()}

    graphs = CudaGraphs(fake, call, "cpu", pinned=False)
    with pytest.raises(CaptureError) as caught:
        graphs.capture(Bucket(1, 8), text(1, 8))
    assert caught.value.reason == reason
    assert fake.cuda.emptied == emptied
    # The next batch is computed all the same.
    assert graphs.eager(text(1, 8))["hidden"].shape == (1, 8)


def test_capturing_forbids_nothing_to_other_threads(fake: FakeTorch) -> None:
    """A model is opened, and captured, while the device's thread answers for others."""
    runner_of(fake).warm()
    assert set(fake.cuda.capture_modes) == {"thread_local"}
