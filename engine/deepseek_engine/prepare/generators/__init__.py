"""Preparing models that generate: checkpoints in the hub's naming, never a graph.

Why it exists: a decoder is computed by the engine's own stack, which reads safetensors slice by
slice. So nothing is exported and no module is built of a real model: variants are streamed from the
source's files, and models larger than memory can be prepared.
"""

from __future__ import annotations

from deepseek_engine.prepare.generators.recipe import build_generator

__all__ = ["build_generator"]
