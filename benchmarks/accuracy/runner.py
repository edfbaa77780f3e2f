"""Runs the accuracy bench: every subject and seed once, kept until code or libraries change."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from deepseek_engine.prepare.api import cache_folder

from benchmarks.accuracy import digits, real, texts, volumes
from benchmarks.accuracy.figures import SeedFigures, VariantFigures, records_of
from benchmarks.accuracy.subject import Effort, Subject
from benchmarks.accuracy.variants import VARIANTS, bytes_of_fp32, expected_bytes, quantize
from benchmarks.machine import ROOT, Stamp
from benchmarks.record import Record
from benchmarks.settings import FULL, Run, Say

__all__ = ["SUBJECTS", "Store", "measure", "measure_all"]

SUBJECTS: tuple[Subject, ...] = (
    *digits.SUBJECTS,
    *texts.SUBJECTS,
    *volumes.SUBJECTS,
    *real.SUBJECTS,
)
PACKAGES = ("torch", "transformers", "timm", "scikit-learn", "tokenizers", "safetensors")
WAYS = ("subject", "training", "variants")
"""Modules of this package that decide about the figures of every subject, besides its own."""
SOURCES = ("engine/deepseek_engine/quant", "engine/deepseek_engine/models",
           "engine/deepseek_engine/prepare/quant")  # fmt: skip
"""Folders whose code decides about them too."""


def measure_all(given: Run) -> list[Record]:
    """Figures of every subject; those that an earlier run has kept are not measured again.

    One thread, so that sums have one order and the same seed gives the same model.
    """
    stamp = Stamp.take("accuracy", PACKAGES)
    effort = Effort(1.0 if given.effort is FULL else given.effort.part)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        records: list[Record] = []
        for subject in SUBJECTS:
            store = Store.of_this_code(subject, effort)
            records += records_of(stamp, subject, measure(subject, effort, store, given.say))
        return records
    finally:
        torch.set_num_threads(threads)


def measure(subject: Subject, effort: Effort, store: Store, say: Say) -> list[SeedFigures]:
    """Figures of a subject, one for each of its seeds."""
    found = []
    for seed in subject.seeds:
        name = f"{subject.name}-{seed}"
        figures = store.read(name)
        if figures is None:
            say(f"{subject.name}, seed {seed}")
            figures = _measure_seed(subject, seed, effort)
            store.write(name, figures)
        found.append(figures)
    return found


def _measure_seed(subject: Subject, seed: int, effort: Effort) -> SeedFigures:
    trained = subject.make(seed, effort)
    before = bytes_of_fp32(trained.module)
    variants = {}
    for name in subject.variants:
        variant = VARIANTS[name]
        expected = expected_bytes(trained.module, variant.policy)
        made = quantize(trained, variant)
        score = trained.score(made.module)
        int4 = [layer for layer in made.report.layers if layer.scheme.startswith("int4")]
        variants[name] = VariantFigures(
            total=score.total,
            samples=score.samples,
            tensor_bytes=made.bytes.tensors,
            file_bytes=made.bytes.file,
            expected_bytes=expected,
            int4_bytes=sum(layer.bytes_after for layer in int4),
            int4_parameters=sum(layer.parameters for layer in int4),
        )
    exact = trained.score(trained.module)
    return SeedFigures(
        total=exact.total,
        samples=exact.samples,
        parameters=sum(p.numel() for p in trained.module.parameters()),
        tensor_bytes=before.tensors,
        file_bytes=before.file,
        variants=variants,
    )


@dataclass(frozen=True, slots=True)
class Store:
    """Figures that were measured already, in the user's cache."""

    folder: Path

    @classmethod
    def of_this_code(cls, subject: Subject, effort: Effort) -> Store:
        """The store of a subject's code, these libraries, this Python and this much effort."""
        total = hashlib.sha256()
        for file in _source_files(subject):
            total.update(file.read_bytes())
        versions = [importlib.metadata.version(name) for name in PACKAGES]
        total.update(repr((versions, platform.python_version(), effort)).encode())
        return cls(cache_folder().parent / "benchmarks" / "accuracy" / total.hexdigest()[:16])

    def read(self, name: str) -> SeedFigures | None:
        """What was kept under a name."""
        try:
            fields: dict[str, Any] = json.loads(self._path(name).read_text())
        except FileNotFoundError:
            return None
        variants = {key: VariantFigures(**value) for key, value in fields.pop("variants").items()}
        return SeedFigures(**fields, variants=variants)

    def write(self, name: str, figures: SeedFigures) -> None:
        """Keep figures; the file appears in one step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._path(f".{name}")
        unfinished.write_text(json.dumps(asdict(figures)))
        unfinished.rename(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.json"


def _source_files(subject: Subject) -> Iterator[Path]:
    own = Path(__file__).parent
    module = subject.make.__module__.rpartition(".")[2]
    yield from (own / f"{name}.py" for name in (*WAYS, module))
    yield ROOT / "engine" / "deepseek_engine" / "prepare" / "phantoms.py"
    for folder in SOURCES:
        yield from sorted((ROOT / folder).rglob("*.py"))
