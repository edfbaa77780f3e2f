"""The command that measures accuracy: its parts, and what it writes when some are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy import __main__ as command
from benchmarks.accuracy import runner
from benchmarks.accuracy.figures import SeedFigures, VariantFigures
from benchmarks.accuracy.runner import SUBJECTS, part_of
from benchmarks.accuracy.store import Figures
from benchmarks.accuracy.subject import Effort
from benchmarks.record import Record

MINILM = next(subject for subject in SUBJECTS if subject.name == "MiniLM")
VARIANT = VariantFigures(8.0, 10, 1, 2, 3, 4, 5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_CACHE", str(tmp_path))


def keep(effort: Effort) -> None:
    """Figures of the one part that the tests ask for, as a run would have left them."""
    variants = dict.fromkeys(MINILM.variants, VARIANT)
    Figures.of(MINILM, effort).write(0, SeedFigures(9.0, 10, 80_000, 4, 5, variants))


def test_an_unknown_part_is_named_beside_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--parts", "cnn,resnet"])
    told = capsys.readouterr().err
    assert "no part is called resnet" in told
    assert all(part_of(subject) in told for subject in SUBJECTS)


def test_nothing_is_written_while_parts_are_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(command, "write_results", lambda *given: written.append("results"))
    keep(Effort())
    assert command.main(["--parts", "minilm"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Not measured yet, so nothing is written: cnn, mlp, vit," in told
    assert not written


def test_what_is_kept_is_not_measured_again() -> None:
    keep(Effort())
    told: list[str] = []
    runner.measure([MINILM], Effort(), told.append, processes=1)
    assert told == []


def test_records_are_those_of_complete_parts() -> None:
    keep(Effort())
    found, missing = runner.records(Effort())
    assert {record.case.partition(" ")[0] for record in found} == {"MiniLM"}
    assert all(isinstance(record, Record) for record in found)
    assert missing == [part_of(subject) for subject in SUBJECTS if subject is not MINILM]
