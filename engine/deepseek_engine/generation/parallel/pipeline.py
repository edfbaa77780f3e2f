"""One step through stages: micro-batches so that no stage waits for a whole step of another.

Why it exists: stages work one after the other on the same tokens. Cut into micro-batches of whole
sequences, a later stage works on the first ones while an earlier stage works on the next; answers
are the same, because sequences of a step do not see each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch

from deepseek_engine.generation.parallel.collectives import receive, send
from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.steps import KVCache, ModelLimits, StepInputs

__all__ = ["StageModel", "run_stages", "split_step"]


class StageModel(Protocol):
    """The part of a decoder that one rank holds: all of it, or some of its layers."""

    @property
    def limits(self) -> ModelLimits:
        """Of the whole model."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def width(self) -> int:
        """Numbers of a token's vector between layers."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of vectors between layers."""
        ...

    def bytes_per_block(self, block_size: int) -> int:
        """Bytes that one block of the cache takes on this rank."""
        ...

    def make_cache(self, blocks: int, block_size: int) -> KVCache:
        """An empty cache for this rank's heads and layers."""
        ...

    def embed(self, inputs: StepInputs) -> torch.Tensor:
        """Vectors [T, width] of tokens; asked of the first stage only."""
        ...

    def run(self, hidden: torch.Tensor, inputs: StepInputs, cache: Any) -> torch.Tensor:
        """This stage's layers, [T, width] to [T, width]."""
        ...

    def score(self, hidden: torch.Tensor, inputs: StepInputs) -> torch.Tensor:
        """Scores fp32 [R, vocabulary]; asked of the last stage only."""
        ...


def run_stages(
    model: StageModel,
    inputs: StepInputs,
    cache: KVCache,
    context: ParallelContext,
    *,
    micro_batches: int,
) -> torch.Tensor | None:
    """Compute this rank's part of a step; every rank calls it with the same inputs.

    Args:
        model: this rank's part.
        inputs: of the whole step.
        cache: this rank's.
        context: this rank's place.
        micro_batches: most parts that a step is cut into.

    Returns:
        Scores [R, vocabulary] on rank 0; other ranks may get None.
    """
    if context.pipeline_size == 1:
        return model.score(model.run(model.embed(inputs), inputs, cache), inputs)
    stage, scores, sent = context.pipeline_rank, [], []
    for part in split_step(inputs, micro_batches):
        if context.first_stage:
            hidden = model.embed(part)
        else:
            shape = (len(part.tokens), model.width)
            hidden = receive(shape, stage - 1, context, dtype=model.dtype, device=model.device)
        hidden = model.run(hidden, part, cache)
        if context.last_stage:
            scores.append(model.score(hidden, part))
        else:
            hidden = hidden.contiguous()
            # Kept until it has left: the transfer reads its memory.
            sent.append((send(hidden, stage + 1, context), hidden))
    for work, _ in sent:
        work.wait()
    return _to_leader(torch.cat(scores) if scores else None, inputs, model, context)


def _to_leader(
    scores: torch.Tensor | None, inputs: StepInputs, model: StageModel, context: ParallelContext
) -> torch.Tensor | None:
    """Scores from the last stage to rank 0, which chooses the tokens."""
    if context.tensor_rank:
        return None
    if scores is not None:
        if scores.numel():
            send(scores.contiguous(), 0, context).wait()
        return None
    if not context.first_stage:
        return None
    shape = (len(inputs.logits_rows), model.limits.vocabulary)
    if not shape[0]:
        return torch.empty(shape, dtype=torch.float32, device=model.device)
    last = context.pipeline_size - 1
    return receive(shape, last, context, dtype=torch.float32, device=model.device)


def split_step(inputs: StepInputs, parts: int) -> Iterator[StepInputs]:
    """Cut a step into at most ``parts`` steps of whole sequences, of about as many tokens each.

    On a device this waits for the step's inputs, because their sizes are read.
    """
    starts = inputs.query_starts.tolist()
    sequences, total = len(starts) - 1, starts[-1]
    if parts < 2 or sequences < 2:
        yield inputs
        return
    lengths = inputs.context_lengths.tolist()
    first = 0
    for part in range(1, parts + 1):
        last = first
        # Up to this part's share of the tokens; the last part takes what is left.
        while last < sequences and (part == parts or starts[last] < total * part / parts):
            last += 1
        if last > first:
            yield _sequences(inputs, starts, lengths, first, last)
        first = last


def _sequences(
    inputs: StepInputs, starts: list[int], lengths: list[int], first: int, last: int
) -> StepInputs:
    begin, end = starts[first], starts[last]
    rows = inputs.logits_rows
    rows = rows[(rows >= begin) & (rows < end)] - begin
    adapters = inputs.adapters
    return StepInputs(
        tokens=inputs.tokens[begin:end],
        positions=inputs.positions[begin:end],
        slots=inputs.slots[begin:end],
        query_starts=inputs.query_starts[first : last + 1] - begin,
        context_lengths=inputs.context_lengths[first:last],
        block_tables=inputs.block_tables[first:last],
        logits_rows=rows,
        max_query=max(starts[n + 1] - starts[n] for n in range(first, last)),
        max_context=max(lengths[first:last]),
        adapters=None if adapters is None else adapters[begin:end],
    )
