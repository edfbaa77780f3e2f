"""The cause of an end, left where a container's owner looks for it.

Why it exists: a container has no user who reads a terminal. When one ends, Kubernetes takes up to
4 KiB from a file of it and shows them where people and the operator look. Where nobody named such a
file nothing is written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

__all__ = ["TERMINATION_LOG_VARIABLE", "report_end", "reports_its_end"]

TERMINATION_LOG_VARIABLE: Final = "DEEPSEEK_TERMINATION_LOG"
"""Environment variable with the path of the file; the images set it."""
_MOST_BYTES: Final = 4096  # Kubernetes keeps no more of a termination message.


def reports_its_end() -> bool:
    """Whether this process runs where somebody takes the cause of its end: in a container."""
    return bool(os.environ.get(TERMINATION_LOG_VARIABLE))


def report_end(*, reason: str, message: str) -> None:
    """Write ``{"reason": ..., "message": ...}`` into the termination log, if there is one.

    A log that cannot be written is no reason to hide the failure itself: the cause is in the
    process's own log too.

    Args:
        reason: a stable CamelCase word.
        message: what is wrong and what to do; a long one is cut.
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
