"""What ``deepseek serve`` prints while its models load, and when they are ready.

Why it exists: loading large models takes minutes, and a person must see that it moves; after that
the first thing that a person wants is what runs, where, and a line to call it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.progress import Progress, TaskID
from rich.text import Text

from deepseek._local import LocalModel, ModelStatus, WorkerReport
from deepseek.cli._console import bad, err, good, note, out, say, show, size, table, warn
from deepseek.cli._progress import bars

_EXAMPLES = {
    "text-embedding": '--text "a cat" "a kitten"',
    "image-classification": "--image photo.jpg",
}


class Loading:
    """How far every model is, in bars; or nothing, where nobody watches."""

    def __init__(self, progress: Progress | None, names: Sequence[str]) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        if progress is not None:
            self._tasks = {
                name: progress.add_task(f"{name}: starting", total=None, unit="%") for name in names
            }

    def show(self, statuses: Sequence[ModelStatus]) -> None:
        """Take what the worker knows now."""
        if self._progress is None:
            return
        for status in statuses:
            stage, part = _stage(status)
            self._progress.update(
                self._tasks[status.name],
                description=f"{status.name}: {stage}",
                # Without a part the bar only moves: nobody knows how long opening takes.
                total=100 if part else None,
                completed=100 * part,
            )

    def end(self) -> None:
        """Remove the bars."""
        if self._progress is not None:
            self._progress.stop()


def _stage(status: ModelStatus) -> tuple[str, float]:
    """What a model is busy with, and the part of it that is done."""
    info = status.info
    if status.phase == "LOADING" and info is not None:
        return info.stage or "loading", info.progress
    return status.phase.lower(), 1.0 if status.phase == "READY" else 0.0


@contextmanager
def loading(names: Sequence[str]) -> Iterator[Loading]:
    """Show how far models are, until `Loading.end`: bars on a terminal, one line elsewhere."""
    console = err()
    if not (console.is_terminal and out().is_terminal):
        note(f"Loading {', '.join(names)} ...")
        yield Loading(None, names)
        return
    # While the bars show, log lines go above them.
    with bars(console) as progress:
        yield Loading(progress, names)


class Announcement:
    """Prints the table of models once; stops the process when none of them could be loaded."""

    def __init__(self, pipeline: str, models: Sequence[LocalModel]) -> None:
        self._pipeline = pipeline
        self._weights = {item.model.name: item.weight for item in models}
        self.all_failed = False

    def __call__(self, report: WorkerReport, *, openai: str = "") -> None:
        """Print what is served, and how to call it.

        Args:
            report: of the worker.
            openai: address of OpenAI's interface; empty: it is not served.
        """
        rows = []
        for status in report.models:
            info = status.info
            share = f"{self._weights[status.name] * 100:.0f} %"
            if status.message or info is None:
                rows.append((status.name, "-", "-", "-", share, "-", bad("failed")))
                continue
            random = warn("random weights") if info.random_weights else good("ready")
            rows.append(
                (
                    status.name,
                    info.model_type,
                    info.precision,
                    info.variant,
                    share,
                    size(info.memory_bytes),
                    random,
                )
            )
        columns = ("MODEL", "TYPE", "PRECISION", "VARIANT", "WEIGHT", "MEMORY", "STATE")
        say(f"Pipeline {self._pipeline}", style="bold")
        show(table(columns, rows, right=["WEIGHT", "MEMORY"], fixed=["STATE"]))
        for status in report.models:
            if status.message:
                out().print(Text(f"{status.name}: {status.message}", style="red"), soft_wrap=True)
        self.all_failed = all(status.message for status in report.models)
        if self.all_failed:
            # The worker owns the loop; its own way to stop is the signal.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        _show_addresses(report, openai)


def _show_addresses(report: WorkerReport, openai: str) -> None:
    say()
    say(f"gRPC on {report.grpc_address}, health and metrics on http://{report.http_address}")
    if openai:
        say(f"OpenAI's interface on {openai}")
    say("Call it from another terminal:")
    for status in report.models:
        if status.message or status.info is None:
            continue
        if status.info.task == "generate":
            say(f"  deepseek generate --url {report.grpc_address} {status.name} 'Once upon a time'")
            continue
        rest = _EXAMPLES.get(status.info.task, "--json request.json")
        say(f"  deepseek infer --url {report.grpc_address} --model {status.name} {rest}")
    say("Stop it with Ctrl-C.")
    out().file.flush()
