"""All sequences of a model that several processes hold.

Why it exists: after a rank is lost the blocks of the cache are empty, and beginnings that were kept
for later requests must not be found again. A request that held blocks ends with UNAVAILABLE at its
next step; those that wait begin anew.
"""

from __future__ import annotations

from typing import Any

from deepseek_api.errors import DeepseekError

from deepseek_engine.generation.generator import LocalGenerator
from deepseek_engine.generation.interface import SequenceUpdate
from deepseek_engine.generation.parallel.sharded_model import CONTENT_LOST, ShardedModel
from deepseek_engine.generation.sequences import StepPlan
from deepseek_engine.generation.settings import GenerationSettings

__all__ = ["ShardedGenerator"]


class ShardedGenerator(LocalGenerator):
    """A `Generator` over a `ShardedModel`."""

    def __init__(
        self, model: ShardedModel, tokenizer: Any, settings: GenerationSettings, **others: Any
    ) -> None:
        """Make the cache on all ranks; see `LocalGenerator`."""
        super().__init__(model, tokenizer, settings, **others)
        self._model = model

    def fail(self, plan: StepPlan, error: Exception) -> list[SequenceUpdate]:
        """Account for a step that raised; after a loss nothing that was cached is found again."""
        updates = super().fail(plan, error)
        if isinstance(error, DeepseekError) and error.reason in CONTENT_LOST:
            self._scheduler.pool.forget()
        return updates

    def close(self) -> None:
        """End all ranks."""
        super().close()
        self._model.close()
