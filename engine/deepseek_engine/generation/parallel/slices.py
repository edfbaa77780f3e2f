"""Which part of which tensor of a checkpoint a rank needs, and reading no more than that.

Why it exists: a rank that read whole tensors would need the memory of the whole model once. Tensors
are recognized by the names that model hubs use; a tensor that no rule knows is small (a norm, a
router) and belongs to every rank of its stage. Parts are fractions of a dimension, so that scales
and packed values beside a weight are cut as it is.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open

from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.splits import (
    HeadSplit,
    VocabularySplit,
    expert_range,
    invalid_parallelism,
    split_width,
    stage_layers,
)

__all__ = ["Cut", "ModelShape", "ShardPlan", "ShardReader", "cut_state", "cut_tensor"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """What dividing must know of a model."""

    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    experts: int = 0
    """Experts of a layer; 0: no mixture."""
    tied: bool = False
    """Whether the output layer shares the embedding's weight."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A rank's part of a tensor."""

    dim: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    """First index and the one after the last, in order; empty: the whole tensor."""
    padding: int = 0
    """Rows of zeros that follow."""


WHOLE = Cut()


class _Kind(enum.Enum):
    QUERY = enum.auto()
    KEY_VALUE = enum.auto()
    FUSED_QKV = enum.auto()
    """Rows of all queries, of all keys, of all values."""
    COLUMN = enum.auto()
    GATE_UP = enum.auto()
    """Two column products, one after the other."""
    ROW = enum.auto()
    VOCABULARY = enum.auto()


_RULES: tuple[tuple[_Kind, str], ...] = (
    # Rows that come head by head. `query_key_value` holds query, key and value of each head
    # together; the second half of latent attention unfolds heads from a vector that all ranks have.
    (
        _Kind.QUERY,
        r"(q_proj|q_b_proj|kv_b_proj|query_key_value|self\.(query|key|value)|SelfAttention\.[qkv]"
        r"|relative_attention_bias)",
    ),
    (_Kind.KEY_VALUE, r"(k_proj|v_proj)"),
    (_Kind.FUSED_QKV, r"(qkv_proj|attn\.c_attn)"),
    (_Kind.GATE_UP, r"gate_up_proj"),
    (
        _Kind.COLUMN,
        r"(gate_proj|up_proj|mlp\.c_fc|dense_h_to_4h|intermediate\.dense|DenseReluDense\.wi(_[01])?)",
    ),
    (
        _Kind.ROW,
        r"(o_proj|down_proj|attn\.c_proj|mlp\.c_proj|attention\.dense|dense_4h_to_h"
        r"|output\.dense|SelfAttention\.o|DenseReluDense\.wo)",
    ),
    (_Kind.VOCABULARY, r"(embed_tokens|wte|word_embeddings|shared|lm_head|embed_out)"),
)
_PATTERNS = tuple((kind, re.compile(rf"(^|\.){text}\.[^.]+$")) for kind, text in _RULES)
# GPT-2 stores inputs by outputs; T5's bias has a column for each head.
_TRANSPOSED = re.compile(r"\.(c_attn|c_proj|c_fc|relative_attention_bias)\.weight$")
_LAYER = re.compile(r"(^|\.)(layers|layer|h|block|blocks)\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_INPUT = re.compile(r"(^|\.)(embed_tokens|wte|wpe|word_embeddings|shared|embeddings)\.")
_DESCRIBES = re.compile(r"(_shape|\.inv_freq|rotary_emb\..*)$")
"""Tensors that say something of another one and are no part of it."""


class ShardPlan:
    """A rank's part of every tensor of a checkpoint."""

    def __init__(self, shape: ModelShape, context: ParallelContext) -> None:
        """Divide a model.

        Raises:
            ConfigurationError: ``InvalidParallelism``; heads, experts or layers cannot be shared.
        """
        self._shape, self._context = shape, context
        self.heads = HeadSplit.of(shape.heads, shape.kv_heads, context)
        """This rank's heads."""
        self.vocabulary = VocabularySplit.of(shape.vocabulary, context)
        """This rank's tokens."""
        self.layers = stage_layers(shape.layers, context)
        """This stage's layers."""
        self.experts = expert_range(shape.experts, context) if shape.experts else range(0)
        """This rank's experts of every layer."""

    def holds(self, name: str) -> bool:
        """Whether this rank needs any part of a tensor."""
        layer, expert = _LAYER.search(name), _EXPERT.search(name)
        if layer is not None:
            mine = int(layer.group(3)) in self.layers
            return mine and (expert is None or int(expert.group(1)) in self.experts)
        if _INPUT.search(name) is None:
            return self._context.last_stage
        also_output = self._shape.tied and _kind(name) is _Kind.VOCABULARY
        return self._context.first_stage or (also_output and self._context.last_stage)

    def cut(self, name: str, shape: Sequence[int]) -> Cut | None:
        """This rank's part of a tensor; None: it needs none of it.

        Args:
            name: as in the checkpoint.
            shape: of the whole tensor.

        Raises:
            ConfigurationError: ``InvalidParallelism``; the tensor cannot be divided so.
        """
        if not self.holds(name):
            return None
        kind = _kind(name)
        # Each rank holds its experts whole, so that nothing of them is cut.
        if self._context.tensor_size == 1 or kind is None or _EXPERT.search(name):
            return WHOLE
        along_inputs = kind is _Kind.ROW
        if len(shape) < 2:
            dim = 0
            if along_inputs:
                return WHOLE  # A bias or a scale of outputs, which every rank has all of.
        else:
            dim = int(along_inputs != bool(_TRANSPOSED.search(name)))
        if not shape or shape[dim] == 1:
            return WHOLE  # One scale for the whole dimension.
        if kind is _Kind.VOCABULARY:
            return self._vocabulary(name, shape)
        units, parts = self._parts(kind)
        if kind in (_Kind.COLUMN, _Kind.GATE_UP, _Kind.ROW) and shape[dim] % units:
            split_width(shape[dim], f"Dimension {dim} of '{name}'", self._context)
        return Cut(dim, tuple(_scaled(part, units, shape[dim], name) for part in parts))

    def _parts(self, kind: _Kind) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Units of a dimension, and this rank's ranges of them."""
        heads, rank, size = self.heads, self._context.tensor_rank, self._context.tensor_size
        query = (heads.first, heads.first + heads.count)
        kv = (heads.kv_first, heads.kv_first + heads.kv_count)
        if kind is _Kind.QUERY:
            return self._shape.heads, (query,)
        if kind is _Kind.KEY_VALUE:
            return self._shape.kv_heads, (kv,)
        if kind is _Kind.FUSED_QKV:
            key = self._shape.heads
            value = key + self._shape.kv_heads
            moved = tuple((kv[0] + start, kv[1] + start) for start in (key, value))
            return value + self._shape.kv_heads, (query, *moved)
        if kind is _Kind.GATE_UP:
            return 2 * size, ((rank, rank + 1), (size + rank, size + rank + 1))
        return size, ((rank, rank + 1),)

    def _vocabulary(self, name: str, shape: Sequence[int]) -> Cut:
        split = self.vocabulary
        if shape[0] < split.size:
            raise invalid_parallelism(
                f"'{name}' has {shape[0]} rows for a vocabulary of {split.size}.",
                "Correct vocab_size in config.json.",
            )
        return Cut(0, ((split.first, split.last),), split.rows - (split.last - split.first))


class ShardReader:
    """Reads a rank's part of safetensors files; what it does not need is never read."""

    def __init__(self, paths: Sequence[Path], plan: ShardPlan) -> None:
        """Open files.

        Args:
            paths: all files of the checkpoint.
            plan: what this rank needs of them.
        """
        self._plan = plan
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self.bytes_read = 0
        """Bytes of the parts that were read."""
        with ExitStack() as opening:
            for path in paths:
                file = opening.enter_context(safe_open(str(path), framework="pt"))
                self._files.update(dict.fromkeys(file.keys(), file))
            self._stack = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def names(self) -> Iterator[str]:
        """Tensors of which this rank needs a part."""
        return (name for name in self._files if self._plan.holds(name))

    def read(self, name: str) -> torch.Tensor:
        """This rank's part of a tensor, contiguous.

        Raises:
            KeyError: there is no such tensor, or this rank needs none of it.
            ConfigurationError: it cannot be divided among the ranks.
        """
        whole = self._files[name].get_slice(name)
        cut = self._plan.cut(name, whole.get_shape())
        if cut is None:
            raise KeyError(name)
        if not cut.ranges:
            tensor: torch.Tensor = self._files[name].get_tensor(name)
            self.bytes_read += tensor.nbytes
            return tensor
        index = (slice(None),) * cut.dim
        parts = [whole[(*index, slice(first, last))] for first, last in cut.ranges]
        self.bytes_read += sum(part.nbytes for part in parts)
        return _joined(parts, cut)


def cut_tensor(tensor: torch.Tensor, cut: Cut) -> torch.Tensor:
    """The part of a tensor that is in memory already; a copy, so that the whole can be freed."""
    if not cut.ranges:
        return tensor
    parts = [tensor.narrow(cut.dim, first, last - first) for first, last in cut.ranges]
    return _joined(parts, cut).clone()


def cut_state(
    state: Mapping[str, torch.Tensor], shape: ModelShape, context: ParallelContext
) -> dict[str, torch.Tensor]:
    """A rank's part of a state dictionary."""
    plan = ShardPlan(shape, context)
    cuts = ((name, tensor, plan.cut(name, tensor.shape)) for name, tensor in state.items())
    return {name: cut_tensor(tensor, cut) for name, tensor, cut in cuts if cut is not None}


def _joined(parts: list[torch.Tensor], cut: Cut) -> torch.Tensor:
    if cut.padding:
        parts = [*parts, parts[0].new_zeros((cut.padding, *parts[0].shape[1:]))]
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, dim=cut.dim)


def _scaled(part: tuple[int, int], units: int, size: int, name: str) -> tuple[int, int]:
    first, last = part[0] * size, part[1] * size
    if first % units or last % units:
        raise invalid_parallelism(
            f"A part of '{name}' would begin inside a group of its {size} numbers.",
            "Choose a smaller tensor parallelism, or a checkpoint with smaller groups.",
        )
    return first // units, last // units


def _kind(name: str) -> _Kind | None:
    if _DESCRIBES.search(name):
        return None
    return next((kind for kind, pattern in _PATTERNS if pattern.search(name)), None)
