"""One step of a model: what goes in, what a model that generates must offer.

Why it exists: the scheduler decides in terms of sequences and blocks, a decoder computes on flat
tensors; this is the seam between them, and the seam along which a model is sharded or recorded as a
graph. Rows of several sequences lie one after the other: T tokens of S sequences, with no padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

__all__ = ["DecoderModel", "KVCache", "ModelLimits", "StepInputs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInputs:
    """The tokens of one forward pass, on the model's device.

    A sequence's tokens in a step are consecutive positions: one while it decodes, more for a chunk
    of its prompt or for guessed tokens that are checked.
    """

    tokens: torch.Tensor
    """int64 [T]."""
    positions: torch.Tensor
    """int64 [T], from 0."""
    slots: torch.Tensor
    """int64 [T]: where keys and values of each token are written, block number times block size
    plus offset; -1 writes nothing (padding of a recorded graph)."""
    query_starts: torch.Tensor
    """int32 [S + 1]: tokens of sequence s are ``query_starts[s]:query_starts[s + 1]``."""
    context_lengths: torch.Tensor
    """int32 [S]: positions that the sequence's last token of this step may see, itself included."""
    block_tables: torch.Tensor
    """int32 [S, B]: numbers of the sequence's blocks in order; unused places hold 0."""
    logits_rows: torch.Tensor
    """int64 [R]: rows of T whose scores are wanted."""
    max_query: int
    """Most tokens of a sequence in this step; 1: every sequence decodes."""
    max_context: int
    """Largest of ``context_lengths``."""
    adapters: torch.Tensor | None = None
    """int32 [T]: which loaded adapter each token uses, -1 for none; None: none at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLimits:
    """What a scheduler must know of a model."""

    vocabulary: int
    """Number of tokens."""
    context: int
    """Most positions of a sequence, prompt and answer together."""
    end_tokens: frozenset[int]
    """Tokens that end a text."""


class KVCache(Protocol):
    """Keys and values of all sequences, in blocks of equal size."""

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        ...

    @property
    def block_size(self) -> int:
        """Positions in a block."""
        ...


class DecoderModel(Protocol):
    """A decoder whose weights are loaded (one rank's part of it, when it is sharded)."""

    @property
    def limits(self) -> ModelLimits:
        """What a scheduler must know."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def bytes_per_block(self, block_size: int) -> int:
        """Bytes that one block of the cache takes on this rank, all layers together."""
        ...

    def make_cache(self, blocks: int, block_size: int) -> KVCache:
        """An empty cache."""
        ...

    def forward(self, inputs: StepInputs, cache: KVCache) -> torch.Tensor:
        """Compute one step and write its keys and values into the cache.

        Returns:
            Scores of the next token, float32 [R, vocabulary], for ``inputs.logits_rows``.
        """
        ...
