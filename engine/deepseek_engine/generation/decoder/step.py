"""One forward pass, as its layers see it.

Why it exists: what is the same for all layers (angles of the positions, the plan of the attention)
is computed once a step and handed down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from deepseek_engine.generation.config import Rope
from deepseek_engine.generation.decoder.cache import LayerCache
from deepseek_engine.generation.decoder.kernels import Kernels
from deepseek_engine.generation.decoder.plan import StepPlan
from deepseek_engine.generation.steps import StepInputs

__all__ = ["Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """The inputs and what was made of them."""

    inputs: StepInputs
    turns: Mapping[Rope, tuple[torch.Tensor, torch.Tensor]]
    """Cosines and sines ``[T, size / 2]`` for each rotation: fp32 for kernels, else in the model's
    type."""
    kernels: Kernels | None
    """What computes attention on a GPU; None: plain torch, by the plan."""
    numbers: torch.Tensor
    """int64 [T]: 0 to T - 1."""
    _plan: StepPlan | None

    @property
    def plan(self) -> StepPlan:
        """What plain torch needs to know."""
        assert self._plan is not None  # made wherever there are no kernels
        return self._plan

    def write(self, cache: LayerCache, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store this step's keys and values ``[T, heads, dim]`` of a layer."""
        if self.plan.written is not None:
            keys, values = keys[self.plan.written], values[self.plan.written]
        cache.write(keys, values, self.plan.slots, self.plan.begun)
