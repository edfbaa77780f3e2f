"""A decoder that several processes hold together, and that looks like one in this process.

Why it exists: the scheduler, the sampler and everything above them must not know how a model is
divided. What they can notice is one error more: after a rank is lost, caches begin empty, and a
step that needs keys and values from before fails with UNAVAILABLE instead of computing nonsense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from deepseek_api.errors import EngineUnavailableError

from deepseek_engine.generation.parallel.decoder_shard import (
    CACHE,
    POSITION_BYTES,
    STEP,
    DecoderShard,
    step_fields,
    step_tensors,
)
from deepseek_engine.generation.parallel.group import RankGroup, Step
from deepseek_engine.generation.parallel.incarnation import Timeouts
from deepseek_engine.generation.steps import KVCache, ModelLimits, StepInputs

__all__ = ["CONTENT_LOST", "ShardedCache", "ShardedModel"]

CONTENT_LOST = frozenset({"RankLost", "RanksRestarting", "CacheLost"})
"""Reasons of errors after which no block of the cache holds what it held."""


@dataclass(frozen=True)
class ShardedCache:
    """The caches of all ranks; each lies with its rank."""

    blocks: int
    block_size: int


class ShardedModel:
    """A `DecoderModel` over a `RankGroup`; it has one cache at a time."""

    def __init__(
        self,
        *,
        loader: str,
        arguments: Mapping[str, Any],
        tensor_size: int = 1,
        pipeline_size: int = 1,
        device: str = "cpu",
        threads: int = 1,
        timeouts: Timeouts | None = None,
    ) -> None:
        """Start the ranks and load the model; see `RankGroup`.

        Raises:
            DeepseekError: a rank cannot load its part, or the model cannot be divided so.
        """
        self._cache: ShardedCache | None = None
        self._written = torch.zeros(0, dtype=torch.bool)
        self.group = RankGroup(
            loader=loader,
            arguments=arguments,
            tensor_size=tensor_size,
            pipeline_size=pipeline_size,
            device=device,
            threads=threads,
            timeouts=timeouts,
            prepare=self._prepare,
        )
        """The ranks: their state, their processes, the leader's traffic."""
        own = _own(self.group.shard)
        self._limits, self._device = own.model.limits, own.model.device
        self._position_bytes = max(facts[POSITION_BYTES] for facts in self.group.facts)

    @property
    def limits(self) -> ModelLimits:
        """What a scheduler must know."""
        return self._limits

    @property
    def device(self) -> torch.device:
        """Where rank 0 computes."""
        return self._device

    def bytes_per_block(self, block_size: int) -> int:
        """Bytes that one block of the cache takes on the rank that holds most of it."""
        return self._position_bytes * block_size

    def make_cache(self, blocks: int, block_size: int) -> ShardedCache:
        """An empty cache on every rank; one that was made before is gone.

        Raises:
            EngineUnavailableError: a rank was lost.
        """
        self._cache = ShardedCache(blocks, block_size)
        with self.group.step() as step:
            self._prepare(step)
        return self._cache

    def forward(self, inputs: StepInputs, cache: KVCache) -> torch.Tensor:
        """Compute one step on all ranks; see `DecoderModel.forward`.

        Raises:
            EngineUnavailableError: a rank was lost in this step (``RankLost``), ranks are being
                started again (``RanksRestarting``), or the step needs keys and values that were
                lost with them (``CacheLost``).
            ValueError: the cache is not the one that was made last.
        """
        if cache is not self._cache:
            raise ValueError("the model has another cache now")
        tensors, numbers = step_tensors(inputs), step_fields(inputs)
        with self.group.step() as step:
            # Before the ranks hear of it: a step that is refused leaves them as they are.
            self._written = self._after(tensors)
            step.command(STEP, numbers, tensors)
            own = {name: getattr(inputs, name) for name in tensors}
            scores: torch.Tensor = step.shard.run(STEP, numbers, own)
        return scores

    def close(self) -> None:
        """End all ranks."""
        self.group.close()

    def _prepare(self, step: Step) -> None:
        """Give all ranks an empty cache, if there was one."""
        if self._cache is None:
            return
        fields = {"blocks": self._cache.blocks, "block_size": self._cache.block_size}
        self._written = torch.zeros(self._cache.blocks, dtype=torch.bool)
        step.command(CACHE, fields, {})
        step.shard.run(CACHE, fields, {})

    def _after(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Which blocks the ranks have filled from their first place on, after this step."""
        assert self._cache is not None
        size, written = self._cache.block_size, self._written.clone()
        slots = tensors["slots"]
        written[slots[(slots >= 0) & (slots % size == 0)] // size] = True
        tables = tensors["block_tables"].long()
        used = (tensors["context_lengths"].long() + size - 1) // size
        needed = tables[torch.arange(tables.shape[1]) < used[:, None]]
        if not bool(written[needed].all()):
            raise EngineUnavailableError(
                "Keys and values of this request were lost when the model's processes were started "
                "again.",
                hint="Send the request again.",
                reason="CacheLost",
            )
        return written


def _own(shard: object) -> DecoderShard:
    assert isinstance(shard, DecoderShard)
    return shard
