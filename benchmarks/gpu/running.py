"""One run over the parts: what is measured, recorded, skipped and resumed.

Why it exists: a lent GPU ends without warning. Each part writes its records when it is done, and a
run that is started again goes on with the parts that are missing or were cut off. It knows no GPU:
cases and the timer come from outside.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.timing import Call, Measured, Timer, measure, spread

__all__ = ["Case", "Machine", "Outcome", "run_parts"]

OWN, AGAIN = "deepseek", "deepseek again"
ROUNDS = 15
STATES = "gpu-state"
"""Folder, beside the records, of what was left out and why."""


@dataclass(slots=True)
class Case:
    """One shape of one part."""

    group: str
    """What is averaged over shapes, for example ``M=1``."""
    shape: str
    subjects: Mapping[str, Sequence[Call]]
    """Calls by name; ours is `OWN`."""
    work: float = 0.0
    """Operations or bytes of a call; 0 tells no rate."""
    unit: str = ""
    """Of the rate: ``TFLOP/s``, ``TOP/s``, ``TB/s``."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Peers that are not there, and why."""
    throughput: float = 0.0
    """Items of a call, where the figure is items a second instead of the time."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the records say of the run."""

    device: str
    versions: Mapping[str, str]
    commit: str
    date: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one part."""

    part: str
    state: str
    """``measured``, ``kept`` (from an earlier run), ``skipped`` or ``failed``."""
    detail: str = ""


Cases = Callable[[], Iterable[Case]]


def run_parts(
    parts: Mapping[str, Cases],
    timer: Timer,
    machine: Machine,
    folder: Path,
    *,
    budget_s: float,
    again: bool = False,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Measure parts one after the other until the time is over.

    Args:
        parts: makes the cases of each part, by its name, in the order of the run.
        timer: times calls.
        machine: described in every record.
        folder: gets ``gpu_PART.json``, and ``gpu-state/PART.json`` with what was left out.
        budget_s: no case is begun after so many seconds.
        again: measure parts also that are there already for this commit and device.
        rounds: turns of each subject.
        clock: seconds.
        say: told of every case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started, outcomes = clock(), []
    for name, cases in parts.items():
        if not again and _is_complete(folder, name, machine):
            outcomes.append(Outcome(name, "kept"))
            continue
        if clock() - started > budget_s:
            outcomes.append(Outcome(name, "skipped", "the time was over"))
            continue
        try:
            outcome = _run_part(
                name, cases, timer, machine, folder,
                rounds=rounds, over=lambda: clock() - started > budget_s, say=say,
            )  # fmt: skip
        # One part's defect must not cost the others their turn on a lent machine.
        except Exception as error:
            outcome = Outcome(name, "failed", f"{type(error).__name__}: {error}"[:300])
            _write(folder / STATES, f"{name}.json", {"failed": outcome.detail})
        outcomes.append(outcome)
        say(f"{name}: {outcome.state} {outcome.detail}".rstrip())
    return outcomes


def _run_part(
    name: str,
    cases: Cases,
    timer: Timer,
    machine: Machine,
    folder: Path,
    *,
    rounds: int,
    over: Callable[[], bool],
    say: Callable[[str], None],
) -> Outcome:
    records: list[dict[str, Any]] = []
    ratios: dict[tuple[str, str], list[float]] = {}
    left_out: dict[str, str] = {}
    cut = False
    for case in cases():
        if over():
            cut = True
            break
        say(f"{name} {case.group} {case.shape}")
        found, failed = measure(case.subjects, timer, rounds=rounds)
        for peer, reason in {**case.skipped, **failed}.items():
            left_out.setdefault(f"{case.group}, {case.shape}: {peer}", reason)
        if OWN in found:
            records += _records(name, case, found, machine, ratios)
        del case  # its inputs fill the device's memory
    records += _means(name, ratios, machine)
    _write(folder, f"gpu_{name}.json", records)
    state = {"complete": not cut, "left_out": left_out, **_identity(machine)}
    _write(folder / STATES, f"{name}.json", state)
    detail = f"{len(records)} records" + (", cut off by the time" if cut else "")
    return Outcome(name, "measured" if records else "skipped", detail)


def _records(
    part: str,
    case: Case,
    found: Mapping[str, Measured],
    machine: Machine,
    ratios: dict[tuple[str, str], list[float]],
) -> list[dict[str, Any]]:
    own = found[OWN]
    where = f"{case.group}, {case.shape}" + ("" if own.graph else " (without a graph)")
    made = []
    for peer, other in found.items():
        if peer == OWN:
            continue
        pairs = [b / a for a, b in zip(own.rounds, other.rounds, strict=True)]
        low, high = spread(pairs)
        if peer != AGAIN:
            ratios.setdefault((case.group, peer), []).append(other.median / own.median)
        made.append(
            _record(
                part, where, "time", "us", own.median * 1e6, machine, n=len(own.rounds),
                scatter=[v * 1e6 for v in own.rounds], peer=peer, peer_value=other.median * 1e6,
                ratio=other.median / own.median, ratio_low=low, ratio_high=high,
            )
        )  # fmt: skip
    if case.work:
        rates = [case.work / t / 1e12 for t in own.rounds]
        made.append(
            _record(part, where, "rate", case.unit, case.work / own.median / 1e12, machine,
                    n=len(rates), scatter=rates)
        )  # fmt: skip
    if case.throughput:
        rates = [case.throughput / t for t in own.rounds]
        made.append(
            _record(part, where, "throughput", "sequences/s", case.throughput / own.median, machine,
                    n=len(rates), scatter=rates)
        )  # fmt: skip
        made.append(
            _record(part, where, "latency", "ms", own.median * 1e3, machine, n=len(own.rounds),
                    scatter=[v * 1e3 for v in own.rounds])
        )  # fmt: skip
    return made


def _means(
    part: str, ratios: Mapping[tuple[str, str], Sequence[float]], machine: Machine
) -> list[dict[str, Any]]:
    """Geometric means over the shapes: the figures that goals are about."""
    return [
        _record(
            part, f"{group} against {peer}, geometric mean", "speed-up", "x",
            math.exp(sum(map(math.log, values)) / len(values)), machine, n=len(values),
        )
        for (group, peer), values in ratios.items()
    ]  # fmt: skip


def _record(
    part: str,
    case: str,
    metric: str,
    unit: str,
    value: float,
    machine: Machine,
    *,
    n: int,
    scatter: Sequence[float] = (),
    peer: str | None = None,
    peer_value: float | None = None,
    ratio: float | None = None,
    ratio_low: float | None = None,
    ratio_high: float | None = None,
) -> dict[str, Any]:
    low, high = spread(scatter) if scatter else (0.0, 0.0)
    return {
        "bench": f"gpu_{part}",
        "case": case,
        "metric": metric,
        "value": _short(value),
        "unit": unit,
        "peer": peer,
        "peer_value": _short(peer_value),
        "ratio": _short(ratio),
        "device": machine.device,
        "versions": dict(machine.versions),
        "n": n,
        "spread": {
            "low": _short(low),
            "high": _short(high),
            "ratio_low": _short(ratio_low),
            "ratio_high": _short(ratio_high),
        }
        if scatter
        else None,
        "commit": machine.commit,
        "date": machine.date,
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _identity(machine: Machine) -> dict[str, str]:
    return {"device": machine.device, "commit": machine.commit}


def _is_complete(folder: Path, name: str, machine: Machine) -> bool:
    try:
        state = json.loads((folder / STATES / f"{name}.json").read_bytes())
    except (OSError, ValueError):
        return False
    mine = all(state.get(key) == value for key, value in _identity(machine).items())
    return bool(state.get("complete")) and mine and (folder / f"gpu_{name}.json").is_file()


def _write(folder: Path, name: str, content: object) -> None:
    # Beside and then renamed, so that a machine that goes away leaves no half of a file.
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
