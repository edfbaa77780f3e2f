"""What a worker does differently in a container.

Why it exists: a container has no user who reads a terminal. It finds its models by looking into a
folder when nobody wrote a configuration, and when a model cannot be served it ends and leaves the
cause where Kubernetes (or ``docker inspect``) shows it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deepseek_api.errors import ConfigurationError
from deepseek_engine.client import ModelConfig

from deepseek_worker.config import WorkerConfig
from deepseek_worker.fleet import ModelStatus, Phase

__all__ = ["TERMINATION_LOG_VARIABLE", "config_of_folder", "report_end", "termination_cause"]

TERMINATION_LOG_VARIABLE: Final = "DEEPSEEK_TERMINATION_LOG"
"""Environment variable with the path of the file that takes the cause of a failure. When it is
set, a worker none of whose models can be served ends instead of waiting to be looked at."""
_MOST_BYTES = 4096  # Kubernetes keeps no more of a termination message.


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
        )
    models = tuple(ModelConfig(name=bundle.name, bundle=str(bundle)) for bundle in bundles)
    return WorkerConfig(models=models, host="0.0.0.0")  # noqa: S104 - that is what a container is for


def termination_cause(statuses: Sequence[ModelStatus]) -> tuple[str, str] | None:
    """Reason and message of a worker that can serve nothing, or None while it can or may."""
    if not statuses or any(status.phase is not Phase.FAILED for status in statuses):
        return None
    first = statuses[0]
    return first.reason, f"Model {first.name}: {first.message}"


def report_end(*, reason: str, message: str) -> None:
    """Leave the cause of an end in the termination log, if there is one.

    A log that cannot be written is no reason to hide the failure itself: the cause is in the
    worker's own log too.
    """
    path = os.environ.get(TERMINATION_LOG_VARIABLE)
    if not path:
        return
    text = json.dumps({"reason": reason, "message": message}, ensure_ascii=False)
    if len(text.encode()) > _MOST_BYTES:
        text = json.dumps({"reason": reason, "message": message[: _MOST_BYTES // 8] + " ..."})
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError:
        return
