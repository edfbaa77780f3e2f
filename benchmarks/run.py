"""All benches in one run: ``python -m benchmarks.run [--quick] [--only NAME]``.

Prints a table with every figure, its peer and its bar, writes ``benchmarks/results`` and
``docs/performance.md``. A figure that falls short is told, not failed: the exit status is 1 only
when a bench could not run.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from deepseek_api.errors import DeepseekError
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.about import BENCHES, WITH_BENCH
from benchmarks.bars import judge
from benchmarks.driver import BenchError
from benchmarks.record import RESULTS, Record, write_results
from benchmarks.settings import FULL, QUICK, Effort, Run

__all__ = ["main", "table"]

QUICK_NOTE = "A quick run shows that everything works; its figures are noise and are not kept."


def main(argv: Sequence[str] | None = None) -> int:
    """Run benches; the result is the exit status."""
    arguments = _parse(argv)
    console = Console(highlight=False)
    effort = QUICK if arguments.quick else FULL
    kept: Path | None = arguments.results or (None if arguments.quick else RESULTS)
    failed = []
    for bench in arguments.only or WITH_BENCH:
        started = time.perf_counter()
        console.print(f"[bold]{BENCHES[bench].title}[/bold]")
        try:
            records = _run(bench, effort, console)
        except (BenchError, DeepseekError) as error:
            console.print(f"[red]could not run:[/red] {error}")
            failed.append(bench)
            continue
        console.print(table(records))
        console.print(f"{time.perf_counter() - started:.0f} s\n")
        if kept is not None:
            write_results(bench, records, folder=kept)
    if kept == RESULTS:
        report.main([])
        console.print("Written: benchmarks/results and docs/performance.md")
    elif kept is None:
        console.print(QUICK_NOTE)
    return 1 if failed else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help=QUICK_NOTE)
    parser.add_argument(
        "--only",
        action="append",
        choices=WITH_BENCH,
        metavar="NAME",
        help=f"one bench; may be repeated: {', '.join(WITH_BENCH)}",
    )
    parser.add_argument(
        "--results", type=Path, help="folder to write to instead of benchmarks/results"
    )
    return parser.parse_args(argv)


def _run(bench: str, effort: Effort, console: Console) -> list[Record]:
    # Imported one by one: each has its own libraries, and --only should not need the others.
    module = importlib.import_module(f"benchmarks.{bench}")

    def say(message: str) -> None:
        console.print(f"  [dim]{message}[/dim]")

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        records: list[Record] = module.run(Run(effort=effort, folder=Path(folder), say=say))
    return records


def table(records: Sequence[Record]) -> Table:
    """Every figure with its peer, its bar and how it stands to it."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("case", "metric"):
        shown.add_column(title, overflow="fold")
    shown.add_column("figure", justify="right")
    shown.add_column("peer", overflow="fold")
    for title in ("ratio", "bar"):
        shown.add_column(title, justify="right", no_wrap=True)
    shown.add_column("", overflow="fold")
    for record in records:
        verdict = judge(record)
        colour = "" if verdict is None else "green" if verdict.passed else "yellow"
        peer = "" if record.peer_value is None else report.number(record.peer_value)
        shown.add_row(
            record.case,
            record.metric,
            f"{report.number(record.value)} {record.unit}",
            f"{record.peer}: {peer}" if record.peer else "",
            f"{record.ratio:.2f}x" if record.ratio is not None else "",
            str(verdict.bar) if verdict else "",
            f"[{colour}]{verdict}[/{colour}]" if verdict else "",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
