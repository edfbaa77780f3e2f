"""What a bundle and its settings say of a model, whatever kind of model it is.

Why it exists: models that answer in batches and models that generate are opened in different ways
and reported in the same one; what only their kind knows is added by whoever opens them.
"""

from __future__ import annotations

from deepseek_api.manifest import Variant

from deepseek_engine.bundles import OpenBundle
from deepseek_engine.memory import estimate_memory
from deepseek_engine.messages import ModelConfig, ModelInfo, ModelState

__all__ = ["described"]


def described(model: ModelConfig, bundle: OpenBundle, variant: Variant) -> ModelInfo:
    """A model that is being opened; its inputs and outputs are not in it."""
    manifest = bundle.manifest
    return ModelInfo(
        name=model.name,
        state=ModelState.LOADING,
        task=manifest.task,
        model_type=model.model_type or manifest.model_type,
        backend=variant.backend,
        precision=variant.precision,
        variant=variant.id,
        digest=bundle.digest,
        random_weights=manifest.random_weights,
        weight=model.weight,
        memory_bytes=estimate_memory(variant),
        stage="opening",
        progress=1.0,
    )
