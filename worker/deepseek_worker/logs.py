"""Structured logs on standard error.

Why it exists: a worker logs JSON where programs read it and text where a person does. What clients
send is never logged; names that they chose are escaped by both formats, so that no line can be
forged. Only programs call `configure_logging`; libraries must not.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from deepseek_engine.client import json_formatter

from deepseek_worker.config import LogFormat

__all__ = ["configure_logging"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(*, log_format: LogFormat, level: str) -> None:
    """Send all logs of this process to standard error.

    Args:
        log_format: ``auto`` is text when standard error is a terminal, JSON otherwise.
        level: least important level that is shown.
    """
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler = _StandardError()
    handler.setFormatter(_TextFormatter() if text else json_formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These talk about every connection; their warnings are worth having.
    for name in ("asyncio", "aiohttp", "grpc"):
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


class _StandardError(logging.Handler):
    """Writes to what ``sys.stderr`` is at the time: a progress bar exchanges it while it shows."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class _TextFormatter(logging.Formatter):
    """One line a record: time, level, message, and the extra fields as ``key=value``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.replace("\n", "\\n").replace("\r", "\\r")
        extra: dict[str, Any] = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        fields = "".join(f" {key}={value!r}" for key, value in extra.items())
        return super().formatMessage(record) + fields
