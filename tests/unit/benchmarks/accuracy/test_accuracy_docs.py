"""The page about quantization says what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.accuracy.bars import FILE, KEPT
from benchmarks.record import read_results

PAGE = Path(__file__).resolve().parents[4] / "docs" / "quantization.md"
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([\d.]+) % \| ([\d.]+) \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text("utf-8"))
MEASURED = {
    (record.case.partition(" (")[0], record.metric): record.value
    for record in read_results()["accuracy"]
}


def test_the_page_has_rows_of_both_real_models_and_of_trained_ones() -> None:
    models = {model for model, *_ in ROWS}
    assert {"MiniLM", "EfficientNet-Lite0"} < models
    assert len(ROWS) >= 12


@pytest.mark.parametrize(
    ("model", "scheme", "file", "kept"),
    ROWS,
    ids=[f"{model}, {scheme}" for model, scheme, *_ in ROWS],
)
def test_a_row_is_what_was_measured(model: str, scheme: str, file: str, kept: str) -> None:
    case = f"{model} {scheme}"
    assert file == f"{MEASURED[case, FILE]:.1f}"
    assert kept == f"{MEASURED[case, KEPT]:.4f}"
