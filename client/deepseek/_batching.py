"""The batching helper of the engine under the name that users know."""

from __future__ import annotations

from deepseek_engine.batching import dynamic_batching

__all__ = ["dynamic_batching"]
