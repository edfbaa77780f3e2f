"""Model families: how weights become a torch module, and what serving it needs to know."""

from __future__ import annotations

from deepseek_engine.prepare.architectures.base import LoadedModel, load_model

__all__ = ["LoadedModel", "load_model"]
