"""Steps in which every sequence decodes, through recorded CUDA graphs.

Why it exists: such a step of a small batch is limited by the launches of its kernels, and a graph
launches all of them at once. Graphs exist for a short list of numbers of sequences and longest
contexts; a step is padded up to the next one with rows that belong to no sequence: they write
nothing (slot -1) and see nothing (context 0). Which graphs are kept, and what happens where one
cannot be recorded, is decided by the runner that other models use too; scores stay on the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deepseek_engine.backends.torch.buckets import Bucket, batch_sizes
from deepseek_engine.backends.torch.cuda_graphs import CudaGraph, CudaGraphs
from deepseek_engine.backends.torch.graphs import GraphRunner
from deepseek_engine.codec import Array
from deepseek_engine.generation.steps import DecoderModel, KVCache, StepInputs
from deepseek_engine.messages import TensorSpec

__all__ = ["DecodeShapes", "StepGraphs", "decode_inputs"]

_CAPACITY = 48
_FIRST_CONTEXT = 256
_SCORES = "scores"
_PADDING = {"slots": -1}
"""Padding of the inputs by name; of all others it is 0."""


class StepGraphs:
    """The graphs of one model."""

    def __init__(
        self,
        model: DecoderModel,
        cache: KVCache,
        *,
        sequences: int,
        eager: Callable[[], torch.Tensor],
        library: Any = torch,
        pinned: bool = True,
    ) -> None:
        """Prepare to record; `warm` does it beforehand.

        Args:
            model: computes on a GPU.
            cache: its cache.
            sequences: most of a step.
            eager: computes the step that is to be run without a graph.
            library: torch, or what stands in for it in a test.
            pinned: whether the host's inputs are page-locked.
        """
        size = cache.block_size

        def call(static: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
            return {_SCORES: model.forward(decode_inputs(static, size), cache)}

        runtime = _Runtime(library, call, str(model.device), eager=eager, pinned=pinned)
        longest = min(model.limits.context, cache.blocks * size)
        shapes = DecodeShapes(sequences=sequences, longest=longest, block_size=size)
        self.runner = GraphRunner(runtime, shapes, (), capacity=_CAPACITY)

    def warm(self) -> None:
        """Record graphs before the first request."""
        self.runner.warm()

    def scores(self, inputs: Mapping[str, Array]) -> torch.Tensor:
        """Scores of a step of one token for each sequence, float32 [S, vocabulary].

        Args:
            inputs: ``tokens``, ``positions``, ``slots``, ``contexts`` [S] and ``tables`` [S, B].
        """
        found: Any = self.runner.run(inputs)[_SCORES]
        return found[: len(inputs["tokens"])]  # type: ignore[no-any-return]

    def close(self) -> None:
        """Free all graphs."""
        self.runner.close()


class DecodeShapes:
    """Numbers of sequences and longest contexts that graphs exist for."""

    def __init__(self, *, sequences: int, longest: int, block_size: int) -> None:
        """Make the list.

        Args:
            sequences: most of a step.
            longest: most positions of a sequence.
            block_size: positions of a block.
        """
        self._size = block_size
        self._sequences = batch_sizes(sequences)
        contexts = [min(longest, _FIRST_CONTEXT)]
        while contexts[-1] < longest:
            contexts.append(min(longest, contexts[-1] * 2))
        # A graph's block table has whole blocks.
        self._contexts = [-(-context // block_size) * block_size for context in contexts]

    def __iter__(self) -> Iterator[Bucket]:
        """All shapes."""
        return (Bucket(*pair) for pair in itertools.product(self._sequences, self._contexts))

    def fit(self, inputs: Mapping[str, Array]) -> Bucket | None:
        """The smallest shape that holds a step."""
        rows = next((n for n in self._sequences if n >= len(inputs["tokens"])), None)
        context = int(inputs["contexts"].max())
        length = next((n for n in self._contexts if n >= context), None)
        return None if rows is None or length is None else Bucket(rows, length)

    def example(self, bucket: Bucket) -> dict[str, Array]:
        """A step of padding."""
        rows = bucket.rows
        return {
            "tokens": np.zeros(rows, np.int64),
            "positions": np.zeros(rows, np.int64),
            "slots": np.full(rows, _PADDING["slots"], np.int64),
            "contexts": np.zeros(rows, np.int32),
            "tables": np.zeros((rows, bucket.length // self._size), np.int32),
        }

    def pad(self, inputs: Mapping[str, Array], into: Mapping[str, Array]) -> None:
        """Write a step into the inputs of its shape."""
        rows = len(inputs["tokens"])
        for name, target in into.items():
            given = inputs[name]
            if given.ndim > 1:
                # Speculation of an earlier step may have left blocks beyond the context.
                width = min(given.shape[1], target.shape[1])
                target[:rows, :width] = given[:, :width]
                target[:rows, width:] = 0
            else:
                target[:rows] = given
            target[rows:] = _PADDING.get(name, 0)

    def cut(
        self, outputs: Mapping[str, Array], specs: Sequence[TensorSpec], inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        """All rows: the caller knows how many are its own."""
        return dict(outputs)


def decode_inputs(static: Mapping[str, torch.Tensor], block_size: int) -> StepInputs:
    """The step of a graph: one token for each sequence, the longest context that it may have."""
    tokens, tables = static["tokens"], static["tables"]
    rows = torch.arange(len(tokens) + 1, device=tokens.device)
    return StepInputs(
        tokens=tokens,
        positions=static["positions"],
        slots=static["slots"],
        query_starts=rows.int(),
        context_lengths=static["contexts"],
        block_tables=tables,
        logits_rows=rows[:-1],
        max_query=1,
        max_context=tables.shape[1] * block_size,
    )


class _Recorded:
    """A graph whose scores stay on the device."""

    def __init__(self, graph: CudaGraph) -> None:
        self._graph = graph
        self.inputs = graph.inputs

    def replay(self) -> Mapping[str, Array]:
        return self._graph.launch()

    def close(self) -> None:
        self._graph.close()


class _Runtime:
    """Records decode steps; a `GraphRuntime` whose outputs are tensors of the device."""

    def __init__(
        self, library: Any, call: Any, device: str, *, eager: Callable[[], Any], pinned: bool
    ) -> None:
        self._graphs = CudaGraphs(library, call, device, pinned=pinned)
        self._eager = eager

    def capture(self, bucket: Bucket, example: Mapping[str, Array]) -> _Recorded:
        return _Recorded(self._graphs.capture(bucket, example))

    def eager(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return {_SCORES: self._eager()}
