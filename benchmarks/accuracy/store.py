"""What a run of the accuracy bench leaves for the next: trained weights, and figures.

Why it exists: training takes most of a run, and a run may be stopped. What is kept is found by a
hash of everything that decides about it, so nothing has to be cleared by hand: trained weights
depend on the code that trains, figures on the code that quantizes too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepseek_engine.prepare.api import cache_folder
from safetensors.torch import load_model, save_model
from torch import nn

from benchmarks.accuracy.figures import SeedFigures, VariantFigures
from benchmarks.accuracy.subject import Effort, Loss, Subject
from benchmarks.accuracy.training import train
from benchmarks.machine import ROOT

__all__ = ["PACKAGES", "Figures", "Weights"]

PACKAGES = ("torch", "transformers", "timm", "scikit-learn", "tokenizers", "safetensors")
"""Libraries that decide about figures."""
ENGINE = ROOT / "engine" / "deepseek_engine"
OWN = Path(__file__).resolve().parent
TRAINING = (OWN / "training.py", ENGINE / "prepare" / "phantoms.py", ENGINE / "models")
"""What trains, besides a subject's own module."""
QUANTIZING = (OWN / "variants.py", OWN / "measuring.py", ENGINE / "quant",
              ENGINE / "prepare" / "quant")  # fmt: skip
"""What turns trained weights into figures."""


def _digest(sources: Iterable[Path], *facts: object) -> str:
    """A hash of files, of all Python files in folders, and of facts."""
    total = hashlib.sha256(repr(facts).encode())
    for source in sources:
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            total.update(file.read_bytes())
    return total.hexdigest()[:16]


def _facts(subject: Subject, effort: Effort) -> tuple[object, ...]:
    versions = [importlib.metadata.version(name) for name in PACKAGES]
    return subject.name, effort, versions, platform.python_version()


def _module_of(subject: Subject) -> Path:
    return OWN / f"{subject.make.__module__.rpartition('.')[2]}.py"


def _folder(kind: str) -> Path:
    return cache_folder().parent / "benchmarks" / "accuracy" / kind


@dataclass(frozen=True, slots=True)
class Weights:
    """Trained weights of one subject and seed."""

    path: Path

    @classmethod
    def of(cls, subject: Subject, seed: int, effort: Effort) -> Weights:
        """Those that this code and these libraries would train."""
        key = _digest((_module_of(subject), *TRAINING), *_facts(subject, effort))
        return cls(_folder("weights") / key / f"{_slug(subject.name)}-{seed}.safetensors")

    def train(self, module: nn.Module, loss: Loss, *, steps: int, rate: float) -> None:
        """Train, or load what was trained before; either way the module is in eval mode."""
        if self.path.is_file():
            load_model(module, self.path)
            module.eval().requires_grad_(False)
            return
        train(module, loss, steps=steps, rate=rate)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        save_model(module, str(unfinished))
        unfinished.rename(self.path)


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one subject, by seed."""

    subject: Subject
    folder: Path

    @classmethod
    def of(cls, subject: Subject, effort: Effort) -> Figures:
        """Those that this code and these libraries would measure."""
        sources = (_module_of(subject), *TRAINING, *QUANTIZING)
        return cls(subject, _folder("figures") / _digest(sources, *_facts(subject, effort)))

    def read(self, seed: int) -> SeedFigures | None:
        """What was kept of a seed."""
        try:
            fields: dict[str, Any] = json.loads(self._path(seed).read_text("utf-8"))
        except FileNotFoundError:
            return None
        variants = {key: VariantFigures(**value) for key, value in fields.pop("variants").items()}
        return SeedFigures(**fields, variants=variants)

    def write(self, seed: int, figures: SeedFigures) -> None:
        """Keep figures; the file appears in one step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._path(seed).with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(figures)), "utf-8")
        unfinished.rename(self._path(seed))

    def _path(self, seed: int) -> Path:
        return self.folder / f"{_slug(self.subject.name)}-{seed}.json"


def _slug(name: str) -> str:
    return name.replace(" ", "-")
