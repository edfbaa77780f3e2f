"""What quantizing costs in accuracy and saves in bytes: small models trained here, and real ones.

Why it exists: "75 % smaller at 98 % of the accuracy" can only be answered with models that have
learned something. A run takes minutes on one core, so every subject's figures are kept and a run
that was stopped goes on where it was. Importing this package imports no runtime: the performance
page is made from results and bars alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.record import Record
    from benchmarks.settings import Run

__all__ = ["run"]


def run(given: Run) -> list[Record]:
    """Train, quantize and measure every subject."""
    from benchmarks.accuracy.runner import measure_all

    return measure_all(given)
