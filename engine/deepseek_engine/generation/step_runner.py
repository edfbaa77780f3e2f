"""From a plan to tensors, through the model, to tokens; waits for the device once.

Why it exists: the scheduler thinks in sequences and blocks, a model in flat tensors. The host's
side of those tensors is kept from step to step: allocating and page-locking it each time would take
longer than filling it. It decides nothing and runs on the device's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from deepseek_engine.generation.requests import TokenLogprob
from deepseek_engine.generation.sampling import Pick, Row, Sampler
from deepseek_engine.generation.scheduler import blocks_for
from deepseek_engine.generation.sequences import Sequence, StepPlan, Work
from deepseek_engine.generation.settings import GenerationSettings
from deepseek_engine.generation.step_graphs import StepGraphs
from deepseek_engine.generation.steps import DecoderModel, KVCache, StepInputs

__all__ = ["GraphMaker", "Outcome", "StepRunner"]


class GraphMaker(Protocol):
    """Makes the recorded steps of a model; see `StepGraphs`."""

    def __call__(
        self,
        model: DecoderModel,
        cache: KVCache,
        *,
        sequences: int,
        eager: Callable[[], torch.Tensor],
    ) -> StepGraphs:
        """Prepare to record."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gave one sequence."""

    tokens: tuple[int, ...] = ()
    """New ones: none for a part of a prompt, several for accepted guesses."""
    logprobs: tuple[TokenLogprob, ...] = ()
    failed: bool = False
    """Its scores were not numbers, or nothing could be chosen."""


class StepRunner:
    """Runs steps of one model."""

    def __init__(
        self,
        model: DecoderModel,
        cache: KVCache,
        settings: GenerationSettings,
        *,
        graphs: GraphMaker | None = None,
    ) -> None:
        """Prepare to run; on a GPU graphs are recorded now.

        Args:
            model: with its weights loaded.
            cache: its cache.
            settings: the model's.
            graphs: makes the recorded steps; None: CUDA graphs on a GPU, elsewhere none.
        """
        self._model = model
        self._cache = cache
        self._sampler = Sampler(model.device)
        self._inputs = _Inputs(model, cache, settings)
        if graphs is None and model.device.type == "cuda":
            graphs = StepGraphs
        self.graphs: StepGraphs | None = None
        if graphs is not None:
            self.graphs = graphs(
                model, cache, sequences=settings.max_sequences, eager=self._forward
            )
            self.graphs.warm()

    def close(self) -> None:
        """Free what was recorded."""
        if self.graphs is not None:
            self.graphs.close()

    def run(self, plan: StepPlan) -> list[Outcome]:
        """Compute a step: an outcome for each part of its work."""
        with torch.inference_mode():
            self._inputs.fill(plan.work)
            step = self._inputs.decoding()
            if step is not None and self.graphs is not None:
                scores = self.graphs.scores(step)
            else:
                scores = self._forward()
            rows = [row for work in plan.work for row in _rows(work)]
            if rows:
                picks = self._sampler.sample(scores, rows)
            else:
                picks = []
                self._inputs.wait()
        outcomes, first = [], 0
        for work in plan.work:
            count = len(work.guesses) + 1 if work.samples else 0
            outcomes.append(_outcome(work, picks[first : first + count]))
            first += count
        return outcomes

    def _forward(self) -> torch.Tensor:
        return self._model.forward(self._inputs.send(), self._cache)


def _rows(work: Work) -> list[Row]:
    if not work.samples:
        return []
    position = work.start + work.count
    return [Row(work.sequence.choice, position + n) for n in range(len(work.guesses) + 1)]


def _outcome(work: Work, picks: Tokens[Pick]) -> Outcome:
    tokens: list[int] = []
    logprobs: list[TokenLogprob] = []
    for place, pick in enumerate(picks):
        if pick.failed:
            return Outcome(tuple(tokens), tuple(logprobs), failed=True)
        work.sequence.choice.made(pick.token)
        tokens.append(pick.token)
        if pick.logprob is not None:
            logprobs.append(pick.logprob)
        # What follows was computed from the guess, so it counts only if the guess was right.
        if place < len(work.guesses) and work.guesses[place] != pick.token:
            break
    return Outcome(tuple(tokens), tuple(logprobs))


@dataclass(frozen=True, slots=True)
class _Filled:
    """What the host's side of a step holds now."""

    tokens: int = 0
    sequences: int = 0
    width: int = 0
    """Blocks of a row of the block tables."""
    rows: int = 0
    """Rows whose scores are wanted."""
    max_query: int = 0
    max_context: int = 0
    adapted: bool = False
    """Whether any sequence uses an adapter."""


class _Inputs:
    """Tensors of a step on the host and on the device."""

    def __init__(self, model: DecoderModel, cache: KVCache, settings: GenerationSettings) -> None:
        self._device = model.device
        self._size = cache.block_size
        tokens, sequences = settings.token_budget, settings.max_sequences
        width = min(blocks_for(model.limits.context, self._size), cache.blocks)
        self._tokens = _Pair(tokens, torch.int64, model.device)
        self._positions = _Pair(tokens, torch.int64, model.device)
        self._slots = _Pair(tokens, torch.int64, model.device)
        self._starts = _Pair(sequences + 1, torch.int32, model.device)
        self._contexts = _Pair(sequences, torch.int32, model.device)
        self._tables = _Pair(sequences * width, torch.int32, model.device)
        self._rows = _Pair(tokens, torch.int64, model.device)
        self._adapters = _Pair(tokens, torch.int32, model.device)
        self._filled = _Filled()

    def fill(self, work: Tokens[Work]) -> None:
        """Write a step's numbers on the host."""
        total, rows, adapted = 0, 0, False
        width = max(len(item.sequence.blocks) for item in work)
        tables = self._tables.array[: len(work) * width].reshape(len(work), width)
        self._starts.array[0] = 0
        for place, item in enumerate(work):
            sequence, end = item.sequence, total + item.tokens
            blocks = np.frombuffer(sequence.blocks, np.int32)
            tables[place, : len(blocks)] = blocks
            tables[place, len(blocks) :] = 0
            self._fill_tokens(item, blocks, total, end)
            if item.samples:
                count = len(item.guesses) + 1
                self._rows.array[rows : rows + count] = np.arange(end - count, end)
                rows += count
            self._adapters.array[total:end] = sequence.adapter
            adapted = adapted or sequence.adapter >= 0
            self._starts.array[place + 1] = end
            self._contexts.array[place] = item.start + item.tokens
            total = end
        self._filled = _Filled(
            tokens=total,
            sequences=len(work),
            width=width,
            rows=rows,
            max_query=max(item.tokens for item in work),
            max_context=max(item.start + item.tokens for item in work),
            adapted=adapted,
        )

    def decoding(self) -> dict[str, npt.NDArray[Any]] | None:
        """The step as a recorded one takes it; None unless every sequence decodes one token."""
        filled = self._filled
        count = filled.sequences
        if filled.adapted or not filled.tokens == filled.rows == count:
            return None
        return {
            "tokens": self._tokens.array[:count],
            "positions": self._positions.array[:count],
            "slots": self._slots.array[:count],
            "contexts": self._contexts.array[:count],
            "tables": self._tables.array[: count * filled.width].reshape(count, filled.width),
        }

    def send(self) -> StepInputs:
        """Start the way of a step's numbers to the device."""
        filled = self._filled
        count, width = filled.sequences, filled.width
        return StepInputs(
            tokens=self._tokens.send(filled.tokens),
            positions=self._positions.send(filled.tokens),
            slots=self._slots.send(filled.tokens),
            query_starts=self._starts.send(count + 1),
            context_lengths=self._contexts.send(count),
            block_tables=self._tables.send(count * width).view(count, width),
            logits_rows=self._rows.send(filled.rows),
            max_query=filled.max_query,
            max_context=filled.max_context,
            adapters=self._adapters.send(filled.tokens) if filled.adapted else None,
        )

    def _fill_tokens(self, item: Work, blocks: npt.NDArray[np.int32], first: int, end: int) -> None:
        sequence: Sequence = item.sequence
        known = first + item.count
        tokens = np.frombuffer(sequence.tokens, np.int64)
        self._tokens.array[first:known] = tokens[item.start : item.start + item.count]
        if item.guesses:
            self._tokens.array[known:end] = item.guesses
        positions = self._positions.array[first:end]
        positions[:] = np.arange(item.start, item.start + item.tokens)
        self._slots.array[first:end] = (
            blocks[positions // self._size].astype(np.int64) * self._size + positions % self._size
        )

    def wait(self) -> None:
        """Wait until the device has read them: the next step writes them again."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


class _Pair:
    """A vector on the host, and its copy on the device where that is another memory."""

    def __init__(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        apart = device.type != "cpu"
        self._host = torch.zeros(length, dtype=dtype, pin_memory=device.type == "cuda")
        self._there = torch.zeros(length, dtype=dtype, device=device) if apart else None
        self.array: npt.NDArray[Any] = self._host.numpy()

    def send(self, length: int) -> torch.Tensor:
        """The first elements on the device."""
        if self._there is None:
            return self._host[:length]
        there = self._there[:length]
        return there.copy_(self._host[:length], non_blocking=True)
