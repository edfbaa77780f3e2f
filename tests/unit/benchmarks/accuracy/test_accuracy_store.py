"""What was trained and measured is found again, and only by the same code and effort."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.accuracy import store, volumes
from benchmarks.accuracy.figures import SeedFigures, VariantFigures
from benchmarks.accuracy.store import Figures, Weights
from benchmarks.accuracy.subject import Effort

(SUBJECT,) = volumes.SUBJECTS
FIGURES = SeedFigures(9.0, 10, 80_000, 400, 500, {"int8": VariantFigures(8.0, 10, 1, 2, 3, 4, 5)})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPSEEK_CACHE", str(tmp_path))
    return tmp_path


def loss(module: nn.Module, step: int) -> torch.Tensor:
    result: torch.Tensor = module(torch.ones(1, 4)).square().sum()
    return result


def never(module: nn.Module, step: int) -> torch.Tensor:
    raise AssertionError("it was trained before")


def test_figures_are_read_as_they_were_written() -> None:
    kept = Figures.of(SUBJECT, Effort())
    assert kept.read(1) is None
    kept.write(1, FIGURES)
    assert Figures.of(SUBJECT, Effort()).read(1) == FIGURES
    assert kept.read(2) is None


def test_figures_of_another_effort_are_others() -> None:
    Figures.of(SUBJECT, Effort(0.5)).write(0, FIGURES)
    assert Figures.of(SUBJECT, Effort()).read(0) is None


def test_weights_are_trained_once() -> None:
    weights = Weights.of(SUBJECT, 0, Effort())
    first, again = nn.Linear(4, 4), nn.Linear(4, 4)
    weights.train(first, loss, steps=3, rate=0.1)
    weights.train(again, never, steps=3, rate=0.1)
    assert torch.equal(first.weight, again.weight)
    assert not again.training
    assert not again.weight.requires_grad


@pytest.mark.parametrize(
    "sources", ["TRAINING", "QUANTIZING"], ids=["code that trains", "code that quantizes"]
)
def test_changed_code_gives_new_figures(
    sources: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "code.py"
    source.write_text("before")
    monkeypatch.setattr(store, sources, (source,))
    figures, weights = Figures.of(SUBJECT, Effort()), Weights.of(SUBJECT, 0, Effort())
    source.write_text("after")
    assert Figures.of(SUBJECT, Effort()) != figures
    assert (Weights.of(SUBJECT, 0, Effort()) != weights) == (sources == "TRAINING")


def test_all_code_that_is_named_exists() -> None:
    assert all(path.exists() for path in (*store.TRAINING, *store.QUANTIZING))


def test_seeds_have_files_of_their_own() -> None:
    assert len({Weights.of(SUBJECT, seed, Effort()).path for seed in range(3)}) == 3
