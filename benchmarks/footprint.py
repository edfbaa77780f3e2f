"""Memory and start time of the quickstart pipeline, served as its README says."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.driver import children
from benchmarks.machine import ROOT, Stamp
from benchmarks.models import efficientnet, minilm
from benchmarks.record import Record
from benchmarks.servers import Server, resident_mib
from benchmarks.settings import Run
from benchmarks.stats import Rounds

__all__ = ["run"]

STARTS = 3
REQUESTS, CALLERS = 100, 16
PACKAGES = ("onnxruntime", "grpcio", "numpy")
PIPELINE = "examples/quickstart.yaml"
TEXT = "Memory is counted after work, not before it. " * 8


def run(given: Run) -> list[Record]:
    """Start the quickstart, load both models, look at the processes."""
    minilm(given.say)
    efficientnet(given.say)
    picture = given.folder / "picture.jpg"
    _write_picture(str(picture))
    requests: dict[str, dict[str, Any]] = {
        "minilm": {"texts": [TEXT] * 8},
        "efficientnet-lite0": {"image": str(picture)},
    }
    seconds, fronts, both = [], [], []
    for number in range(max(2, given.effort.calls(STARTS))):
        given.say(f"start {number + 1}")
        with Server(_command()) as server:
            seconds.append(server.start_s)
            specs = {
                name: {"kind": "callers", "target": server.target, "model": name, **request}
                for name, request in requests.items()
            }
            with children(specs) as callers:
                for child in callers.values():
                    child.turn(requests=given.effort.calls(REQUESTS), callers=CALLERS)
            fronts.append(resident_mib(server.front_end))
            both.append(resident_mib(server.front_end, server.engine))
    stamp = Stamp.take("footprint", PACKAGES)
    memory = ("resident memory", "MiB")
    return [
        stamp.alone("front end", *memory, subject=_rounds(fronts)),
        stamp.alone("front end and engine", *memory, subject=_rounds(both)),
        stamp.alone("start, bundles cached", "time to ready", "s", subject=_rounds(seconds)),
    ]


def _rounds(values: list[float]) -> Rounds:
    return Rounds(tuple(values), n=len(values))


def _command() -> list[str]:
    ports = ["--grpc-port", "0", "--http-port", "0"]
    serve = ["serve", "-f", str(ROOT / PIPELINE), "--log-format", "json", *ports]
    return [sys.executable, "-m", "deepseek", *serve]


def _write_picture(path: str) -> None:
    from deepseek_engine.prepare.samples import photographs

    photographs()[0].save(path, "JPEG", quality=90)
