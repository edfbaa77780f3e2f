"""All commands, registered by being imported."""

from __future__ import annotations

from deepseek.cli import cache, doctor, infer, models, plan, prepare, serve, validate
from deepseek.cli._app import app

__all__ = ["app", "cache", "doctor", "infer", "models", "plan", "prepare", "serve", "validate"]
