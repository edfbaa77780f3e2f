"""Sixteen clients that generate: batched step by step, one at a time, and by transformers."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.driver import ROOT, BenchError, children
from benchmarks.generation_trace import CLIENTS
from benchmarks.machine import Stamp
from benchmarks.peers import ONE_AT_A_TIME, TRANSFORMERS_GENERATE
from benchmarks.record import Record
from benchmarks.settings import Run
from benchmarks.stats import Rounds, percentile

__all__ = ["run"]

REQUESTS = 3
"""Of each client in a turn."""
PACKAGES = ("torch", "transformers")
OURS = "batched step by step"
CASE = f"{CLIENTS} clients"


def run(given: Run) -> list[Record]:
    """Measure all three on the same trace."""
    stamp = Stamp.take("generation_batching", PACKAGES)
    folder = str(given.folder / "llama")
    _write_checkpoint(folder)
    ours = {"kind": "generation, ours", "folder": folder, "threads": given.threads}
    specs = {
        OURS: {**ours, "seats": CLIENTS},
        ONE_AT_A_TIME: {**ours, "seats": 1},
        TRANSFORMERS_GENERATE: {**ours, "kind": "generation, transformers"},
    }
    requests = given.effort.calls(REQUESTS)
    given.say(f"{given.effort.rounds} rounds of {CLIENTS * requests} requests each")
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in specs}
    with children(specs) as started:
        answers = {name: child.first for name, child in started.items()}
        if len({tuple(tokens) for tokens in answers.values()}) != 1:
            raise BenchError(f"The subjects answer with different tokens: {answers}.")
        for _ in range(given.effort.rounds):
            for name, child in started.items():
                turns[name].append(child.turn(requests=requests))
    return [*_throughput(stamp, turns), *_latencies(stamp, turns)]


def _write_checkpoint(folder: str) -> None:
    call = "benchmarks.generation_subjects as subjects; subjects.write_checkpoint(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {call}", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"The model cannot be made: {done.stderr.strip()[-200:]}")


def _throughput(stamp: Stamp, turns: dict[str, list[dict[str, Any]]]) -> list[Record]:
    rates = {name: _rates(taken) for name, taken in turns.items()}
    return [
        stamp.versus(
            CASE,
            "throughput",
            "tokens/s",
            subject=rates[OURS],
            peer=peer,
            peer_rounds=rates[peer],
            better="higher",
        )
        for peer in (ONE_AT_A_TIME, TRANSFORMERS_GENERATE)
    ]


def _latencies(stamp: Stamp, turns: dict[str, list[dict[str, Any]]]) -> list[Record]:
    records = []
    for name, case in ((OURS, CASE), (ONE_AT_A_TIME, f"{CASE}, one at a time")):
        firsts = [turn["first_ms"] for turn in turns[name]]
        gaps = [turn["gap_ms"] for turn in turns[name]]
        records += [
            stamp.alone(case, "first token", "ms", subject=_over(firsts, 0.5)),
            stamp.alone(case, "between tokens", "ms", subject=_over(gaps, 0.5)),
            stamp.alone(case, "between tokens, p99", "ms", subject=_over(gaps, 0.99)),
        ]
    return records


def _rates(turns: Sequence[dict[str, Any]]) -> Rounds:
    rates = tuple(turn["tokens"] / turn["elapsed_s"] for turn in turns)
    return Rounds(rates, sum(turn["tokens"] for turn in turns))


def _over(rounds: Sequence[Sequence[float]], part: float) -> Rounds:
    values = tuple(statistics.median(r) if part == 0.5 else percentile(r, part) for r in rounds)
    return Rounds(values, sum(map(len, rounds)))
