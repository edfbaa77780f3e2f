"""How much a run measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepseek_engine.hardware import usable_threads

__all__ = ["FULL", "QUICK", "Effort", "Run", "Say"]

Say = Callable[[str], None]
"""Is told what goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure."""

    rounds: int
    """Turns that every subject gets."""
    part: float
    """Part of the full number of calls in a turn."""

    def calls(self, full: int) -> int:
        """Calls of a turn that has ``full`` of them in a full run."""
        return max(1, round(full * self.part))


FULL = Effort(rounds=7, part=1.0)
"""What the committed results are measured with."""
QUICK = Effort(rounds=2, part=0.1)
"""Shows that everything runs; the figures are noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What every bench is given."""

    effort: Effort
    folder: Path
    """A temporary folder of this run."""
    say: Say
    threads: int = usable_threads()
    """Threads of every subject: what this process may use."""
