"""Which part of a model a process holds, and with whom it exchanges.

Why it exists: layers, loaders and schedulers take one value instead of ranks, sizes and groups.
With `SINGLE` nothing is divided and nothing is sent.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch.distributed as dist
from deepseek_api.errors import ConfigurationError

__all__ = ["SINGLE", "ParallelContext", "Traffic"]


@dataclass(slots=True)
class Traffic:
    """What this rank has exchanged, by kind: ``all_reduce``, ``all_gather``, ``send``, ``receive``.

    Bytes are those of the tensor that this rank hands in (or gets, for ``receive``), whatever an
    algorithm makes of them on the wire.
    """

    calls: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    def count(self, kind: str, size: int) -> None:
        """Add one call of ``size`` bytes."""
        self.calls[kind] += 1
        self.bytes[kind] += size

    def clear(self) -> None:
        """Begin again at zero."""
        self.calls.clear()
        self.bytes.clear()


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelContext:
    """One rank's place: its part of every layer, and its part of the layers.

    Raises:
        ConfigurationError: a rank is outside its size, or a divided model has no group.
    """

    tensor_rank: int = 0
    tensor_size: int = 1
    """Ranks that hold a part of the same layers."""
    pipeline_rank: int = 0
    pipeline_size: int = 1
    """Stages, one after the other; each holds some of the layers."""
    tensor_group: dist.ProcessGroup | None = None
    """The ranks of this stage; a rank's number in it is its ``tensor_rank``."""
    pipeline_group: dist.ProcessGroup | None = None
    """The ranks with the same part of other stages, numbered by ``pipeline_rank``."""
    traffic: Traffic = field(default_factory=Traffic, compare=False)
    """Counts what this rank exchanges; stays empty in an undivided model."""

    def __post_init__(self) -> None:
        for kind, rank, size in (
            ("tensor", self.tensor_rank, self.tensor_size),
            ("pipeline", self.pipeline_rank, self.pipeline_size),
        ):
            if size < 1 or not 0 <= rank < size:
                raise ConfigurationError(
                    f"{kind.capitalize()} rank {rank} of {size} does not exist.",
                    hint="Ranks are counted from 0, and there is at least one.",
                    reason="InvalidParallelism",
                )

    @property
    def first_stage(self) -> bool:
        """Whether this rank turns tokens into vectors."""
        return self.pipeline_rank == 0

    @property
    def last_stage(self) -> bool:
        """Whether this rank turns vectors into scores."""
        return self.pipeline_rank == self.pipeline_size - 1

    @property
    def world_size(self) -> int:
        """Processes of the whole model."""
        return self.tensor_size * self.pipeline_size

    @property
    def rank(self) -> int:
        """Number of this process in the whole model: stage after stage."""
        return self.pipeline_rank * self.tensor_size + self.tensor_rank


SINGLE = ParallelContext()
"""An undivided model in one process."""
