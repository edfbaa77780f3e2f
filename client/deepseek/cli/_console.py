"""Printing for people and for programs, in one place.

Why it exists: every command prints tables, errors and JSON in the same way. Text from users and
servers is never read as markup. Results go to standard output, everything else to standard error,
so that ``-o json`` can be piped.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


class OutputFormat(enum.StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"


def out() -> Console:
    """The console of results; made on each call, because tests exchange ``sys.stdout``."""
    return Console(highlight=False, markup=False, emoji=False)


def err() -> Console:
    """The console of progress, notes and errors."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str = "", *, style: str = "") -> None:
    """Print a line of a result; long lines are left to the terminal."""
    out().print(Text(text, style=style), soft_wrap=True)


def note(text: str = "", *, style: str = "") -> None:
    """Print a line that is not part of the result."""
    err().print(Text(text, style=style), soft_wrap=True)


def print_json(value: Any, *, compact: bool = False) -> None:
    """Print a value for programs, in UTF-8; ``compact`` puts it on one line."""
    text = json.dumps(value, indent=None if compact else 2, ensure_ascii=False)
    sys.stdout.write(text + "\n")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Iterable[str] = (),
    fixed: Iterable[str] = (),
    title: str | None = None,
) -> Table:
    """A plain table without vertical lines.

    Args:
        columns: headings.
        rows: cells.
        right: headings of columns that are aligned to the right, for numbers.
        fixed: headings of columns that are never wrapped.
        title: a line above the table.
    """
    made = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        pad_edge=False,
        collapse_padding=True,
        show_edge=False,
    )
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in fixed or column in right,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def show(made: Table) -> None:
    """Print a table as a result."""
    out().print(made)


def good(text: str) -> Text:
    """A word in the colour of success."""
    return Text(text, style="green")


def bad(text: str) -> Text:
    """A word in the colour of failure."""
    return Text(text, style="red")


def warn(text: str) -> Text:
    """A word in the colour of caution."""
    return Text(text, style="yellow")


def size(count: float) -> str:
    """Bytes for a person: ``83 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def plural(count: int, noun: str) -> str:
    """``1 model``, ``2 models``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
