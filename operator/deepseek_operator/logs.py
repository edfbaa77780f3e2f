"""JSON logs on standard error.

Why it exists: one line is one record, so that what users named cannot forge lines. Only the program
calls `configure_logging`.
"""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

__all__ = ["configure_logging"]

_FIELDS = {"levelname": "level", "name": "logger", "asctime": "time"}


def configure_logging(level: str) -> None:
    """Send all logs of this process to standard error as JSON.

    Args:
        level: least important level that is shown: ``debug``, ``info``, ``warning``, ``error``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields=_FIELDS,
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These talk about every connection and every object.
    for name in ("asyncio", "aiohttp", "kopf"):
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
