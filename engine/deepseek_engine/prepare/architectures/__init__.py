"""Model families: how weights become a torch module, and what serving it needs to know."""

from __future__ import annotations

from deepseek_engine.prepare.architectures.base import (
    LoadedModel,
    Plan,
    load_model,
    load_planned,
    make_plan,
)

__all__ = ["LoadedModel", "Plan", "load_model", "load_planned", "make_plan"]
