"""Progress of preparing and loading: bars on a terminal, plain lines elsewhere.

Why it exists: preparing takes seconds to minutes, and a person must see that it moves; a log file
must not be filled with bars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deepseek_engine.prepare.messages import PrepareEvent
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from deepseek.cli._console import err, note, size

WIDE = 100
"""Columns of a screen from which on a bar fits beside the words."""

OnEvent = Callable[[PrepareEvent], None]


@contextmanager
def preparing(name: str) -> Iterator[OnEvent]:
    """Show the progress of one model; gives the receiver of its events."""
    console = err()
    if console.is_terminal:
        with bars(console) as progress:
            yield _on_terminal(progress, name)
    else:
        yield _plain(name)


def bars(console: Console) -> Progress:
    # On a narrow screen the counts say it all; a bar would only break the line in two.
    bar = [BarColumn(bar_width=20)] if console.width >= WIDE else []
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        *bar,
        _AmountColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


class _AmountColumn(ProgressColumn):
    """``12 of 40 layers``, ``3 of 83 MiB``, ``40 %`` or nothing."""

    def render(self, task: Task) -> Text:
        unit = str(task.fields.get("unit", ""))
        if unit == "B":
            total = f" of {size(task.total)}" if task.total else ""
            return Text(f"{size(task.completed)}{total}" if task.completed else "")
        if unit == "%":
            return Text(f"{task.completed:.0f} %" if task.completed else "")
        return Text(f"{task.completed:.0f} of {task.total:.0f} {unit}" if task.total else "")


def _on_terminal(progress: Progress, name: str) -> OnEvent:
    bar = progress.add_task(f"{name}: starting", total=None, unit="")

    def on_event(event: PrepareEvent) -> None:
        if event.kind == "progress":
            progress.update(
                bar,
                description=f"{name}: {event.stage}",
                total=event.total or None,
                completed=event.done,
                unit=event.unit,
            )
        elif event.kind == "warning":
            progress.console.print(Text(f"{name}: {event.message}", style="yellow"))

    return on_event


def _plain(name: str) -> OnEvent:
    said: set[str] = set()

    def on_event(event: PrepareEvent) -> None:
        if event.kind == "progress" and event.stage not in said:
            said.add(event.stage)
            note(f"{name}: {event.stage}")
        elif event.kind == "warning":
            note(f"{name}: {event.message}")

    return on_event
