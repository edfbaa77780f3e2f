"""``python -m benchmarks.accuracy [--parts NAME,NAME] [--quick]``: measure, print, write the page.

What an earlier run measured with the same code is not measured again, so a run that was stopped
goes on, and parts may be measured one by one. The results file is written when all are there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from deepseek_api.errors import DeepseekError
from deepseek_engine.hardware import usable_threads
from rich.console import Console

from benchmarks import report
from benchmarks.accuracy.runner import SUBJECTS, measure, part_of, records
from benchmarks.accuracy.subject import Effort, Subject
from benchmarks.record import write_results
from benchmarks.run import QUICK_NOTE, table

__all__ = ["main"]

QUICK = Effort(0.05)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the result is the exit status."""
    arguments = _parse(argv)
    console = Console(highlight=False)
    effort = QUICK if arguments.quick else Effort()
    started = time.perf_counter()

    def say(message: str) -> None:
        console.print(f"  [dim]{time.perf_counter() - started:.0f} s, {message}[/dim]")

    try:
        measure(arguments.parts, effort, say, processes=arguments.processes)
    except DeepseekError as error:
        console.print(f"[red]could not run:[/red] {error}")
        return 1
    found, missing = records(effort)
    console.print(table(found))
    if missing:
        console.print(f"Not measured yet, so nothing is written: {', '.join(missing)}.")
    elif arguments.quick:
        console.print(QUICK_NOTE)
    else:
        write_results("accuracy", found)
        report.main([])
        console.print("Written: benchmarks/results/accuracy.json and docs/performance.md")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__.partition("\n")[0]
    )
    names = ", ".join(map(part_of, SUBJECTS))
    parser.add_argument(
        "--parts", type=_subjects, default=SUBJECTS, metavar="NAME,NAME", help=f"only: {names}"
    )
    parser.add_argument("--quick", action="store_true", help=QUICK_NOTE)
    parser.add_argument(
        "--processes", type=int, default=min(usable_threads(), 8), help="at the same time"
    )
    return parser.parse_args(argv)


def _subjects(text: str) -> tuple[Subject, ...]:
    by_part = {part_of(subject): subject for subject in SUBJECTS}
    unknown = [name for name in text.split(",") if name not in by_part]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no part is called {', '.join(unknown)}; there are {', '.join(by_part)}"
        )
    return tuple(by_part[name] for name in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
