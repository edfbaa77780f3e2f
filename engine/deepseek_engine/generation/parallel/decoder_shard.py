"""One rank's part of a decoder, behind the commands of a rank group.

Why it exists: ranks keep the cache of their heads and layers, and do in the same order what the
leader does. `sharded_model` is the other side: the leader's, which a scheduler sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.pipeline import StageModel, run_stages
from deepseek_engine.generation.steps import KVCache, StepInputs
from deepseek_engine.generation.weights import load_decoder

__all__ = [
    "CACHE",
    "LOADER",
    "POSITION_BYTES",
    "STEP",
    "DecoderShard",
    "load",
    "step_fields",
    "step_tensors",
]

LOADER = "deepseek_engine.generation.parallel.decoder_shard:load"
"""Name of the loader of decoders, for a rank group."""

CACHE, STEP = "cache", "step"
"""Names of commands."""
POSITION_BYTES = "position_bytes"
"""Fact: bytes that a position of the cache takes on this rank."""
_NUMBERS = ("max_query", "max_context")


def load(
    arguments: Mapping[str, Any], context: ParallelContext, device: torch.device
) -> DecoderShard:
    """Load a rank's part of a decoder: the loader of a rank group.

    Args:
        arguments: ``folder`` of the checkpoint, ``dtype`` as torch names it, ``micro_batches``,
            and what else `load_decoder` takes, as plain values.
        context: the rank's place.
        device: where it computes.

    Raises:
        DeepseekError: see `load_decoder`.
    """
    given = dict(arguments)
    folder, micro_batches = Path(given.pop("folder")), int(given.pop("micro_batches"))
    dtype = getattr(torch, given.pop("dtype"))
    model = load_decoder(folder, device=device, dtype=dtype, parallel=context, **given)
    return DecoderShard(model, context, micro_batches=micro_batches)


class DecoderShard:
    """A `Shard` that computes steps."""

    def __init__(self, model: StageModel, context: ParallelContext, *, micro_batches: int) -> None:
        """Take a rank's part of a model; it has no cache yet."""
        self.model, self._context = model, context
        self._micro_batches = micro_batches
        self._cache: KVCache | None = None

    @property
    def facts(self) -> Mapping[str, int]:
        """What the leader must know of every rank."""
        return {POSITION_BYTES: self.model.bytes_per_block(1)}

    def run(self, name: str, fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """Make a cache, or compute a step: its scores on rank 0.

        Raises:
            ValueError: the command is unknown, or a step comes before a cache.
        """
        if name == CACHE:
            # The old one first: both together may not fit.
            self._cache = None
            self._cache = self.model.make_cache(fields["blocks"], fields["block_size"])
            return None
        if name != STEP or self._cache is None:
            raise ValueError(f"a part of a decoder cannot do {name!r} now")
        given: dict[str, Any] = {**tensors, **{key: fields[key] for key in _NUMBERS}}
        inputs = StepInputs(**given)
        return run_stages(
            self.model, inputs, self._cache, self._context, micro_batches=self._micro_batches
        )


def step_tensors(inputs: StepInputs) -> dict[str, torch.Tensor]:
    """The tensors of a step by name, on the host."""
    found = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return {name: value.cpu() for name, value in found.items() if isinstance(value, torch.Tensor)}


def step_fields(inputs: StepInputs) -> dict[str, int]:
    """The numbers of a step by name."""
    return {name: getattr(inputs, name) for name in _NUMBERS}
