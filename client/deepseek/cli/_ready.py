"""What ``deepseek serve`` prints when its models are ready.

Why it exists: the first thing that a person wants then is what runs, where, and a line to call it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from rich.text import Text

from deepseek._local import LocalModel, WorkerReport
from deepseek.cli._console import bad, good, out, say, show, size, table, warn

_EXAMPLES = {
    "text-embedding": '--text "a cat" "a kitten"',
    "image-classification": "--image photo.jpg",
}


class Announcement:
    """Prints the table of models once; stops the process when none of them could be loaded."""

    def __init__(self, pipeline: str, models: Sequence[LocalModel]) -> None:
        self._pipeline = pipeline
        self._weights = {item.model.name: item.weight for item in models}
        self.all_failed = False

    def __call__(self, report: WorkerReport) -> None:
        """Print what is served, and how to call it."""
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
        _show_addresses(report)


def _show_addresses(report: WorkerReport) -> None:
    say()
    say(f"gRPC on {report.grpc_address}, health and metrics on http://{report.http_address}")
    say("Call it from another terminal:")
    for status in report.models:
        if status.message or status.info is None:
            continue
        rest = _EXAMPLES.get(status.info.task, "--json request.json")
        say(f"  deepseek infer --url {report.grpc_address} --model {status.name} {rest}")
    say("Stop it with Ctrl-C.")
    out().file.flush()
