"""One form of JSON log lines for all processes of a worker.

Why it exists: an engine process and a front end log to the same place, and whoever reads it should
find the same fields. It only makes the formatter; which process logs where is decided by programs.
"""

from __future__ import annotations

from pythonjsonlogger.json import JsonFormatter

__all__ = ["json_formatter"]


def json_formatter() -> JsonFormatter:
    """One object a line: ``time``, ``level``, ``logger``, ``message`` and the extra fields."""
    return JsonFormatter(
        "{levelname}{name}{message}",
        style="{",
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger"},
    )
