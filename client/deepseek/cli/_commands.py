"""All commands, registered by being imported."""

from __future__ import annotations

from deepseek.cli import (
    cache,
    doctor,
    explain,
    generate,
    infer,
    models,
    plan,
    prepare,
    quantize,
    rollout,
    serve,
    validate,
)
from deepseek.cli._app import app

__all__ = [
    "app",
    "cache",
    "doctor",
    "explain",
    "generate",
    "infer",
    "models",
    "plan",
    "prepare",
    "quantize",
    "rollout",
    "serve",
    "validate",
]
