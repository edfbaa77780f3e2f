"""What attention needs to know of a step, found once and used by every layer.

Why it exists: which blocks are read for which rows, and who sees what, is the same in all layers
with the same window. Sequences that bring equally many tokens and about as many blocks become one
group and one padded product, so that a step of many decoding sequences has no loop over them.
Contexts within a group differ by less than a factor of two, which bounds the padding.

This is the path of processors: it reads the inputs on the host. On a GPU `kernels` computes
attention, from the same inputs and without waiting.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import torch

from deepseek_engine.generation.steps import StepInputs

__all__ = ["Group", "StepPlan"]


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences whose attention is one product: S sequences of Q tokens, with L places each."""

    rows: torch.Tensor | None
    """int64 [S * Q]: rows of the step, sequence by sequence; None: they are all rows in order."""
    sequences: int
    queries: int
    blocks: torch.Tensor
    """int64 [S, N]."""
    visible: torch.Tensor
    """bool [S, 1, Q, L]: whether a query sees a place."""


@dataclass(slots=True)
class StepPlan:
    """One step; groups are made when a window is first asked for."""

    inputs: StepInputs
    block_size: int
    blocks: int
    """Of the cache; also the number of the block of zeros."""
    slots: torch.Tensor
    """int64: where tokens are written, those that are not left out."""
    written: torch.Tensor | None
    """int64: rows that are written; None: all."""
    begun: torch.Tensor
    """int64: blocks whose first place is written in this step."""
    starts: list[int]
    lengths: list[int]
    _groups: dict[int, list[Group]] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: StepInputs, *, block_size: int, blocks: int) -> StepPlan:
        """Look at a step."""
        slots, written = inputs.slots, None
        if bool((slots < 0).any()):
            written = torch.nonzero(slots >= 0).flatten()
            slots = slots[written]
        return cls(
            inputs=inputs,
            block_size=block_size,
            blocks=blocks,
            slots=slots,
            written=written,
            begun=slots[slots % block_size == 0] // block_size,
            starts=inputs.query_starts.tolist(),
            lengths=inputs.context_lengths.tolist(),
        )

    def groups(self, window: int) -> list[Group]:
        """Groups of the layers with a window; 0: without one."""
        found = self._groups.get(window)
        if found is None:
            found = self._groups[window] = [
                self._group(window, queries, members)
                for (queries, _), members in self._buckets(window).items()
            ]
        return found

    def _buckets(self, window: int) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
        """Sequence, first block and number of blocks, by tokens and size."""
        buckets = defaultdict(list)
        for number, length in enumerate(self.lengths):
            queries = self.starts[number + 1] - self.starts[number]
            if queries < 1 or length < 1:
                continue
            # The earliest token sees ``window`` places back, its own included.
            first = max(0, length - queries - window + 1) // self.block_size if window else 0
            count = -(-length // self.block_size) - first
            buckets[queries, count.bit_length()].append((number, first, count))
        return buckets

    def _group(self, window: int, queries: int, members: list[tuple[int, int, int]]) -> Group:
        inputs, device = self.inputs, self.inputs.tokens.device
        numbers, firsts, counts = (
            torch.tensor(column, device=device) for column in zip(*members, strict=True)
        )
        starts = torch.tensor([self.starts[number] for number, _, _ in members], device=device)
        each = torch.arange(queries, device=device)
        rows = (starts.unsqueeze(1) + each).flatten()
        places = torch.arange(max(count for _, _, count in members), device=device)
        columns = (firsts.unsqueeze(1) + places).clamp_(max=inputs.block_tables.shape[1] - 1)
        blocks = inputs.block_tables[numbers].long().gather(1, columns)
        blocks = blocks.masked_fill(places >= counts.unsqueeze(1), self.blocks)
        offsets = torch.arange(len(places) * self.block_size, device=device)
        keys = (firsts * self.block_size).unsqueeze(1) + offsets  # [S, L]
        last = inputs.context_lengths[numbers].long() - queries  # position of the first query
        at = (last.unsqueeze(1) + each).unsqueeze(-1)  # [S, Q, 1]
        visible = keys.unsqueeze(1) <= at
        if window:
            visible &= keys.unsqueeze(1) > at - window
        whole = len(rows) == len(inputs.tokens) and len(members) == len(self.lengths)
        return Group(
            rows=None if whole else rows,
            sequences=len(members),
            queries=queries,
            blocks=blocks,
            visible=visible.unsqueeze(1),
        )
