"""What ``deepseek doctor`` finds, and how it is shown; for machines and for clusters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from deepseek.cli._console import bad, good, table, warn

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    level: Level
    detail: str


def findings_table(findings: Iterable[Finding]) -> Table:
    """The table of what was found."""
    marks = {"ok": good("ok"), "note": warn("note"), "problem": bad("problem")}
    return table(
        ("CHECK", "", "FOUND"),
        [(one.what, marks[one.level], one.detail) for one in findings],
        fixed=["CHECK"],
    )
