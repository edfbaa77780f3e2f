"""What a worker does differently in a container.

Why it exists: a container has no user who reads a terminal. It finds its models by looking into a
folder when nobody wrote a configuration, and when it cannot serve it ends and says why (see
`deepseek_engine.client.report_end`).
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from deepseek_api.errors import ConfigurationError
from deepseek_engine.client import ModelConfig

from deepseek_worker.config import WorkerConfig
from deepseek_worker.fleet import ModelStatus, Phase

__all__ = ["Cause", "config_of_folder", "engine_cause", "termination_cause"]

Cause = tuple[str, str]
"""A stable CamelCase word, and a sentence for a person."""


def config_of_folder(folder: Path) -> WorkerConfig:
    """Settings that serve every bundle below a folder, reachable from outside the container.

    Raises:
        ConfigurationError: the folder cannot be read or holds no bundle.
    """
    try:
        bundles = sorted(path.parent for path in folder.glob("*/manifest.json"))
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be read: {error.strerror}.") from error
    if not bundles:
        raise ConfigurationError(
            f"There is no bundle below {folder}.",
            hint=f"Mount a folder that 'deepseek prepare' wrote at {folder}/NAME.",
            reason="MissingBundle",
        )
    models = tuple(ModelConfig(name=bundle.name, bundle=str(bundle)) for bundle in bundles)
    return WorkerConfig(models=models, host="0.0.0.0")  # noqa: S104 - that is what a container is for


def termination_cause(statuses: Sequence[ModelStatus]) -> Cause | None:
    """Reason and message of a worker that can serve nothing, or None while it can or may."""
    if not statuses or any(status.phase is not Phase.FAILED for status in statuses):
        return None
    first = statuses[0]
    return first.reason, f"Model {first.name}: {first.message}"


def engine_cause(status: int | None) -> Cause:
    """Why a worker ends whose engine process does not stay alive.

    Args:
        status: how the last process ended by itself; negative for a signal, None when it hung.
    """
    if status == -signal.SIGKILL:
        return (
            "OutOfMemory",
            "The engine process was killed each time before it could serve, most likely for "
            "memory. Raise the memory limit, or choose a smaller precision.",
        )
    how = "hung" if status is None else f"ended with status {status}"
    return (
        "EngineFailed",
        f"The engine process {how} each time before it could serve. See the worker's log.",
    )
