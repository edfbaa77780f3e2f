"""The performance page, from the results alone: ``python -m benchmarks.report [--check]``.

Why it exists: a page written by hand says what somebody remembers. This one is generated from the
committed results and claims nothing else; ``--check`` fails when the two differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.about import BENCHES, About
from benchmarks.bars import BARS, bar_key, judge
from benchmarks.record import RESULTS, Record, read_results

__all__ = ["PAGE", "main", "number", "render"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
COMMAND = "python -m benchmarks.report"
_HEAD = """\
# Performance

This page is generated from `benchmarks/results/*.json` by `python -m benchmarks.report`; nothing
here is written by hand. `make bench` measures everything again on your machine, writes the results
and this page. One bench alone: `.venv/bin/python -m benchmarks.run --only NAME`. What needs a
cluster is measured by commands of its own, which stand beside their figures.
"""
_READING = """\
How to read the tables: a figure is the median over the rounds of one run, followed by the 10th and
90th percentile of the rounds. Subject and peer have their turns in the same rounds. The ratio says
how many times better than the peer the figure is, above 1 is better whatever the unit; the range
behind it is that of the single rounds. A bar was set before it was measured; a figure without one
is only told.
"""
_NOTHING = """\
Nothing was measured yet: there are no results. Run `make bench`.
"""


def render(results: Mapping[str, Sequence[Record]]) -> str:
    """The page of these results."""
    measured = {bench: records for bench, records in results.items() if records}
    if not measured:
        return f"{_HEAD}\n{_NOTHING}"
    parts = [_HEAD, _READING, _summary([r for records in measured.values() for r in records])]
    parts += [_section(bench, records) for bench, records in measured.items()]
    return "\n".join(parts)


def number(value: float) -> str:
    """A figure for a table: three significant digits, and no exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.4f}" if 0.9 <= value < 1 else f"{value:.3g}"


def _summary(records: Sequence[Record]) -> str:
    verdicts = [(record, verdict) for record in records if (verdict := judge(record))]
    short = [(record, verdict) for record, verdict in verdicts if not verdict.passed]
    lines = [f"{len(verdicts) - len(short)} of {len(verdicts)} measured bars are reached."]
    missing = len(BARS) - len({bar_key(record) for record, _ in verdicts})
    if missing:
        lines[0] += f" {missing} of all {len(BARS)} were not measured."
    if short:
        lines += ["Not reached:", ""]
        lines += [
            f"- {record.case}, {record.metric}{_against(record)}: {verdict} of {verdict.bar}"
            for record, verdict in short
        ]
    return "\n".join([*lines, ""])


def _against(record: Record) -> str:
    return f" against {record.peer}" if record.peer else ""


def _section(bench: str, records: Sequence[Record]) -> str:
    about = BENCHES.get(bench, About(bench, ""))
    lines = [f"## {about.title}", "", about.method, ""]
    for run in _runs(records):
        first = run[0]
        versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
        lines += [
            f"Measured on {first.device}, {first.date}, commit `{first.commit}`, with {versions}.",
            f"Again: `{about.command or f'.venv/bin/python -m benchmarks.run --only {bench}'}`",
            "",
            *_table(run),
            "",
        ]
    return "\n".join(lines)


def _runs(records: Sequence[Record]) -> list[list[Record]]:
    """Records that were taken together."""
    runs: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        key = (record.device, record.date, record.commit, repr(record.versions))
        runs.setdefault(key, []).append(record)
    return list(runs.values())


def _table(records: Sequence[Record]) -> list[str]:
    lines = ["| case | metric | figure | peer | ratio | bar | |", "|---|---|---|---|---|---|---|"]
    for record in records:
        verdict = judge(record)
        cells = (
            record.case,
            record.metric,
            _figure(record),
            f"{record.peer}: {number(record.peer_value)}"
            if record.peer and record.peer_value is not None
            else "",
            _ratio(record),
            str(verdict.bar) if verdict else "",
            str(verdict) if verdict else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _figure(record: Record) -> str:
    figure = f"**{number(record.value)}** {record.unit}".rstrip()
    if record.spread is None:
        return figure
    return f"{figure} ({number(record.spread.low)} to {number(record.spread.high)})"


def _ratio(record: Record) -> str:
    if record.ratio is None:
        return ""
    ratio = f"**{record.ratio:.2f}x**"
    spread = record.spread
    if spread is None or spread.ratio_low is None or spread.ratio_high is None:
        return ratio
    return f"{ratio} ({spread.ratio_low:.2f} to {spread.ratio_high:.2f})"


def main(argv: Sequence[str] | None = None, *, path: Path = PAGE, results: Path = RESULTS) -> int:
    """Write the page, or with ``--check`` compare it; the result is the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    arguments = parser.parse_args(argv)
    text = render(read_results(folder=results, order=BENCHES))
    if not arguments.check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"docs/{path.name} differs from the results. Run `{COMMAND}`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
