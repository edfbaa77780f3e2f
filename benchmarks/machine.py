"""On what and with what a figure was taken."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseek_engine.hardware import detect_cpu

from benchmarks.record import Record, Spread
from benchmarks.stats import Better, Rounds, compare, significant

__all__ = ["Stamp"]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Stamp:
    """What all records of one bench share, and how records are made of rounds."""

    bench: str
    device: str
    versions: dict[str, str]
    commit: str
    date: str

    @classmethod
    def take(
        cls, bench: str, packages: Sequence[str], *, settings: Mapping[str, str] | None = None
    ) -> Stamp:
        """Describe this machine, these packages, what was set, and this working tree now."""
        cpu = detect_cpu()
        best = cpu.instruction_sets[0]
        versions = {name: importlib.metadata.version(name) for name in packages}
        return cls(
            bench=bench,
            device=f"{cpu.name} ({cpu.architecture}, {best}, {cpu.threads} threads)",
            versions={"python": platform.python_version()} | versions | dict(settings or {}),
            commit=_commit(),
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )

    def versus(
        self,
        case: str,
        metric: str,
        unit: str,
        *,
        subject: Rounds,
        peer: str,
        peer_rounds: Rounds,
        better: Better,
    ) -> Record:
        """A figure beside a peer's from the same rounds."""
        compared = compare(subject, peer_rounds, better=better)
        spread = subject.spread().model_copy(
            update={
                "ratio_low": significant(compared.low),
                "ratio_high": significant(compared.high),
            }
        )
        return self._record(
            case,
            metric,
            unit,
            value=subject.median,
            n=subject.n,
            spread=spread,
            peer=(peer, peer_rounds.median, compared.ratio),
        )

    def alone(self, case: str, metric: str, unit: str, *, subject: Rounds) -> Record:
        """A measured figure without a peer."""
        return self._record(
            case, metric, unit, value=subject.median, n=subject.n, spread=subject.spread()
        )

    def fact(self, case: str, metric: str, unit: str, *, value: float, n: int = 1) -> Record:
        """A figure that does not scatter."""
        return self._record(case, metric, unit, value=value, n=n, spread=None)

    def _record(
        self,
        case: str,
        metric: str,
        unit: str,
        *,
        value: float,
        n: int,
        spread: Spread | None,
        peer: tuple[str, float, float] | None = None,
    ) -> Record:
        name, peer_value, ratio = peer or (None, None, None)
        return Record(
            bench=self.bench,
            case=case,
            metric=metric,
            value=significant(value, 6 if spread is None else 4),
            unit=unit,
            peer=name,
            peer_value=significant(peer_value) if peer_value is not None else None,
            ratio=significant(ratio) if ratio is not None else None,
            device=self.device,
            versions=self.versions,
            n=n,
            spread=spread,
            commit=self.commit,
            date=self.date,
        )


def _commit() -> str:
    """The commit of the working tree; a plus sign says that files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    # Results of the run itself are no change of what was measured.
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs")
    return f"{head}+" if changed else head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
