"""Measured figures as records: one JSON file a bench, the only source of the performance page.

Why it exists: a figure without its device, versions, peer and spread cannot be repeated or
compared. Reading and writing them needs no runtime, so that the page can be checked in a second;
nothing here measures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

__all__ = ["RESULTS", "Record", "Spread", "read_results", "write_results"]

RESULTS = Path(__file__).resolve().parent / "results"
"""Folder of the committed results."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Spread(_Frozen):
    """How far the rounds lie apart: 10th and 90th percentile over the rounds."""

    low: float
    high: float
    ratio_low: float | None = None
    """The same for the ratio to the peer, taken round by round."""
    ratio_high: float | None = None


class Record(_Frozen):
    """One figure, and where it is a comparison, the peer's figure from the same run."""

    bench: str
    """Module that measured it, for example ``encoder_cpu``."""
    case: str
    """What was measured; a choice that the run made follows in parentheses."""
    metric: str
    """For example ``latency`` or ``throughput``."""
    value: float
    """Median over the rounds."""
    unit: str
    peer: str | None = None
    """What it is compared with."""
    peer_value: float | None = None
    ratio: float | None = None
    """How many times better than the peer; above 1 is better, whatever the unit."""
    device: str
    versions: dict[str, str]
    n: int
    """Single observations behind the value."""
    spread: Spread | None = None
    """Absent where the value is no measurement of time."""
    commit: str
    date: str
    """Day of the run, ISO 8601, UTC."""


def write_results(bench: str, records: Sequence[Record], *, folder: Path = RESULTS) -> Path:
    """Write the file of one bench, replacing what an earlier run left; return its path.

    The records keep the order of the bench, so that two runs differ in figures only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{bench}.json"
    content = [record.model_dump(mode="json") for record in records]
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def read_results(
    *, folder: Path = RESULTS, order: Iterable[str] = ()
) -> dict[str, tuple[Record, ...]]:
    """All results by bench: those named in ``order`` first, the others by name.

    Raises:
        pydantic.ValidationError: a file holds something else than records.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.json"))}
    names = [name for name in order if name in files]
    names += [name for name in files if name not in names]
    return {name: _read(files[name]) for name in names}


def _read(path: Path) -> tuple[Record, ...]:
    return tuple(Record.model_validate(item) for item in json.loads(path.read_bytes()))
