"""Graphs by shape: what is captured, what is kept, and what runs without one."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pytest
from deepseek_engine.backends.torch.buckets import Bucket, Buckets
from deepseek_engine.backends.torch.graphs import CaptureError, GraphRunner
from deepseek_engine.codec import Array
from deepseek_engine.messages import TensorSpec

IN = (TensorSpec("x", "FP32", (-1, 2)),)
OUT = (TensorSpec("y", "FP32", (-1, 2)),)


class FakeGraph:
    """Doubles its static input, as a captured module would."""

    def __init__(self, bucket: Bucket, example: Mapping[str, Array]) -> None:
        self.bucket = bucket
        self.inputs = {name: array.copy() for name, array in example.items()}
        self.closed = False

    def replay(self) -> Mapping[str, Array]:
        assert not self.closed
        return {"y": self.inputs["x"] * 2}

    def close(self) -> None:
        self.closed = True


class FakeRuntime:
    """Captures everything but the shapes that it was told to fail at."""

    def __init__(self, fail: Mapping[int, str] | None = None) -> None:
        self.fail = dict(fail or {})
        self.graphs: list[FakeGraph] = []
        self.attempts: list[int] = []
        self.eager_rows: list[int] = []

    def capture(self, bucket: Bucket, example: Mapping[str, Array]) -> FakeGraph:
        self.attempts.append(bucket.rows)
        assert example["x"].shape == (bucket.rows, 2)
        if bucket.rows in self.fail:
            raise CaptureError(self.fail[bucket.rows], "the runtime's words")
        self.graphs.append(FakeGraph(bucket, example))
        return self.graphs[-1]

    def eager(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.eager_rows.append(len(inputs["x"]))
        return {"y": inputs["x"] * 2}


def runner_of(
    runtime: FakeRuntime, *, capacity: int = 8, sizes: tuple[int, ...] = (1, 2, 4, 8)
) -> GraphRunner:
    return GraphRunner(runtime, Buckets(IN, sizes=sizes), OUT, capacity=capacity)


def run(runner: GraphRunner, rows: int) -> None:
    batch = {"x": np.random.default_rng(rows).standard_normal((rows, 2)).astype(np.float32)}
    np.testing.assert_array_equal(runner.run(batch)["y"], batch["x"] * 2)


def test_a_batch_runs_through_the_graph_of_its_shape_and_gets_its_own_rows() -> None:
    runtime = FakeRuntime()
    runner = runner_of(runtime)
    for rows in (3, 1, 4, 3, 8):
        run(runner, rows)
    assert runtime.attempts == [4, 1, 8]
    assert runner.replays == 5
    assert not runtime.eager_rows
    assert not runner.fallbacks


def test_warming_captures_all_shapes_the_largest_first() -> None:
    runtime = FakeRuntime()
    runner = runner_of(runtime)
    runner.warm()
    assert runtime.attempts == [8, 4, 2, 1]
    run(runner, 3)
    assert runtime.attempts == [8, 4, 2, 1]


def test_warming_keeps_to_the_capacity_and_prefers_small_shapes() -> None:
    runtime = FakeRuntime()
    runner = runner_of(runtime, capacity=2)
    runner.warm()
    assert runtime.attempts == [2, 1]
    assert not any(graph.closed for graph in runtime.graphs)


def test_the_graph_that_was_used_longest_ago_makes_room() -> None:
    runtime = FakeRuntime()
    runner = runner_of(runtime, capacity=2)
    for rows in (1, 2, 1, 4):
        run(runner, rows)
    assert [bucket.rows for bucket in runner.captured] == [1, 4]
    assert [graph.bucket.rows for graph in runtime.graphs if graph.closed] == [2]


def test_a_shape_that_cannot_be_captured_runs_eagerly_and_is_not_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = FakeRuntime({4: "capture-failed", 8: "capture-failed"})
    runner = runner_of(runtime)
    with caplog.at_level(logging.WARNING):
        for rows in (3, 4, 3, 7, 1):
            run(runner, rows)
    assert runtime.attempts == [4, 8, 1]
    assert runtime.eager_rows == [3, 4, 3, 7]
    assert runner.fallbacks == {"capture-failed": 4}
    assert runner.replays == 1
    # Once, with the cause, however often it happens.
    (record,) = caplog.records
    assert (record.reason, record.cause) == ("capture-failed", "the runtime's words")  # type: ignore[attr-defined]


def test_after_the_memory_ran_out_no_further_graph_is_captured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = FakeRuntime({4: "out-of-memory"})
    runner = runner_of(runtime)
    with caplog.at_level(logging.WARNING):
        for rows in (1, 4, 8, 4, 1):
            run(runner, rows)
    assert runtime.attempts == [1, 4]
    assert runner.fallbacks == {"out-of-memory": 3}
    assert runner.replays == 2
    assert len(caplog.records) == 1


def test_a_batch_that_no_shape_holds_runs_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    runtime = FakeRuntime()
    runner = runner_of(runtime)
    with caplog.at_level(logging.WARNING):
        run(runner, 9)
        run(runner, 50)
    assert runtime.eager_rows == [9, 50]
    assert runner.fallbacks == {"dynamic-shape": 2}
    assert len(caplog.records) == 1


def test_without_capacity_nothing_is_captured() -> None:
    runtime = FakeRuntime()
    runner = runner_of(runtime, capacity=0)
    runner.warm()
    run(runner, 1)
    assert not runtime.attempts
    assert runner.fallbacks == {"disabled": 1}


def test_closing_frees_every_graph() -> None:
    runtime = FakeRuntime()
    runner = runner_of(runtime)
    runner.warm()
    runner.close()
    assert all(graph.closed for graph in runtime.graphs)
    assert runner.captured == ()
