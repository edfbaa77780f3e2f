"""Running batches through captured graphs, and without them where that does not work.

Why it exists: a small model on a GPU is limited by the launches of its kernels, and a captured
graph launches all of them at once. Capturing may fail, graphs take memory, and not every batch has
a shape that a graph exists for; none of that may fail a request. The runtime that captures is given
from outside, so that this logic runs, and is tested, without a GPU.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from deepseek_engine.backends.torch.buckets import Bucket
from deepseek_engine.codec import Array
from deepseek_engine.messages import TensorSpec

__all__ = ["CaptureError", "Captured", "GraphRunner", "GraphRuntime", "Shapes"]

logger = logging.getLogger(__name__)


class CaptureError(Exception):
    """A shape cannot be captured."""

    def __init__(self, reason: str, cause: str) -> None:
        """Say why.

        Args:
            reason: a stable word: ``capture-failed`` or ``out-of-memory``.
            cause: the runtime's own words, for the log.
        """
        super().__init__(cause)
        self.reason = reason


class Captured(Protocol):
    """A graph of one shape."""

    @property
    def inputs(self) -> Mapping[str, Array]:
        """The static inputs on the host: what is written here is computed next."""
        ...

    def replay(self) -> Mapping[str, Array]:
        """Compute; the outputs may be overwritten by the next replay of this graph."""
        ...

    def close(self) -> None:
        """Free the graph's memory."""
        ...


class GraphRuntime(Protocol):
    """Captures graphs and runs without them."""

    def capture(self, bucket: Bucket, example: Mapping[str, Array]) -> Captured:
        """Capture one shape.

        Raises:
            CaptureError: it cannot be captured; nothing is left behind.
        """
        ...

    def eager(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute without a graph."""
        ...


class Shapes(Protocol):
    """Which shapes there are graphs of, and how batches are made to fit; see `Buckets`."""

    def __iter__(self) -> Iterator[Bucket]:
        """All shapes."""
        ...

    def fit(self, inputs: Mapping[str, Array]) -> Bucket | None:
        """The smallest shape that holds a batch; None when none does."""
        ...

    def example(self, bucket: Bucket) -> dict[str, Array]:
        """Inputs of a shape that hold padding only."""
        ...

    def pad(self, inputs: Mapping[str, Array], into: Mapping[str, Array]) -> None:
        """Write a batch into the inputs of its shape; everything around it becomes padding."""
        ...

    def cut(
        self, outputs: Mapping[str, Array], specs: Sequence[TensorSpec], inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The batch's own part of a shape's outputs."""
        ...


class GraphRunner:
    """Runs one model's batches."""

    def __init__(
        self,
        runtime: GraphRuntime,
        buckets: Shapes,
        outputs: Sequence[TensorSpec],
        *,
        capacity: int,
    ) -> None:
        """Prepare to run; `warm` captures beforehand.

        Args:
            runtime: captures and computes.
            buckets: the shapes of graphs.
            outputs: of the module.
            capacity: graphs kept at once; the one used longest ago goes first. 0 captures none.
        """
        self._runtime = runtime
        self._buckets = buckets
        self._outputs = outputs
        self._capacity = capacity
        self._graphs: OrderedDict[Bucket, Captured] = OrderedDict()
        self._failed: dict[Bucket, str] = {}
        self._full = False
        self._told: set[str] = set()
        self.fallbacks: Counter[str] = Counter()
        """Batches that ran without a graph, by reason."""
        self.replays = 0
        """Batches that ran through a graph."""

    @property
    def captured(self) -> tuple[Bucket, ...]:
        """Shapes that a graph exists for now, the one used longest ago first."""
        return tuple(self._graphs)

    def warm(self) -> None:
        """Capture shapes before the first request, as many as are kept.

        Where there are more, the smallest win, because launches weigh most on them. Large ones are
        captured first, so that the others fit into the memory that those took.
        """
        smallest = sorted(self._buckets, key=lambda bucket: bucket.rows * max(1, bucket.length))
        for bucket in reversed(smallest[: self._capacity]):
            self._graph(bucket)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute a batch; a failure to capture is never a failure of the batch.

        The outputs may be views that the next batch overwrites.
        """
        bucket = self._buckets.fit(inputs)
        if bucket is None:
            return self._without(inputs, "dynamic-shape", "no graph has a shape that holds it")
        graph = self._graph(bucket)
        if graph is None:
            reason = self._failed.get(bucket, "out-of-memory" if self._full else "disabled")
            return self._without(inputs, reason, "")
        self._buckets.pad(inputs, graph.inputs)
        self.replays += 1
        return self._buckets.cut(graph.replay(), self._outputs, inputs)

    def close(self) -> None:
        """Free all graphs."""
        while self._graphs:
            self._graphs.popitem()[1].close()

    def _graph(self, bucket: Bucket) -> Captured | None:
        graph = self._graphs.get(bucket)
        if graph is not None:
            self._graphs.move_to_end(bucket)
            return graph
        if bucket in self._failed or self._full or not self._capacity:
            return None
        while len(self._graphs) >= self._capacity:
            self._graphs.popitem(last=False)[1].close()
        try:
            graph = self._runtime.capture(bucket, self._buckets.example(bucket))
        except CaptureError as error:
            self._failed[bucket] = error.reason
            # After one graph that did not fit no other is tried: each try stops the device.
            self._full = self._full or error.reason == "out-of-memory"
            self._tell(error.reason, str(error), bucket)
            return None
        self._graphs[bucket] = graph
        return graph

    def _without(self, inputs: Mapping[str, Array], reason: str, cause: str) -> Mapping[str, Array]:
        self.fallbacks[reason] += 1
        if cause:
            self._tell(reason, cause, None)
        return self._runtime.eager(inputs)

    def _tell(self, reason: str, cause: str, bucket: Bucket | None) -> None:
        if reason not in self._told:
            self._told.add(reason)
            logger.warning(
                "batches run without a graph",
                extra={"reason": reason, "cause": cause[:500], "shape": str(bucket or "any")},
            )
