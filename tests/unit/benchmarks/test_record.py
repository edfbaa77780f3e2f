"""Results survive their files, and files that hold something else are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.about import BENCHES
from benchmarks.record import RESULTS, Record, read_results, write_results
from tests.unit.benchmarks.records import fact, record


def test_what_was_written_is_read_back_in_its_order(tmp_path: Path) -> None:
    written = (record(), fact(metric="other"), record(case="auto as served"))
    write_results("encoder_cpu", written, folder=tmp_path)
    assert read_results(folder=tmp_path) == {"encoder_cpu": written}


def test_writing_again_replaces_the_file(tmp_path: Path) -> None:
    write_results("encoder_cpu", [record(), record(value=1.0)], folder=tmp_path)
    write_results("encoder_cpu", [record(value=2.0)], folder=tmp_path)
    assert [r.value for r in read_results(folder=tmp_path)["encoder_cpu"]] == [2.0]


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_results("a", [record(), fact()], folder=tmp_path).read_bytes()
    second = write_results("b", [record(), fact()], folder=tmp_path).read_bytes()
    assert first == second


def test_benches_come_in_the_order_asked_for_and_others_after_them(tmp_path: Path) -> None:
    for bench in ("ipc", "another", "encoder_cpu"):
        write_results(bench, [record(bench=bench)], folder=tmp_path)
    assert list(read_results(folder=tmp_path, order=BENCHES)) == ["encoder_cpu", "ipc", "another"]


def test_no_folder_is_no_results(tmp_path: Path) -> None:
    assert read_results(folder=tmp_path / "missing") == {}


@pytest.mark.parametrize(
    "change",
    [{"surprise": 1}, {"value": "fast"}, {"value": None}, {"versions": [1]}],
    ids=["unknown field", "text for a number", "no value", "versions without names"],
)
def test_a_file_with_something_else_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    content = [record().model_dump(mode="json") | change]
    (tmp_path / "encoder_cpu.json").write_text(json.dumps(content))
    with pytest.raises(ValidationError):
        read_results(folder=tmp_path)


def test_a_figure_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        record(value=float("nan"))


def test_the_fields_are_those_of_the_published_format() -> None:
    assert list(Record.model_fields) == [
        "bench", "case", "metric", "value", "unit", "peer", "peer_value", "ratio", "device",
        "versions", "n", "spread", "commit", "date",
    ]  # fmt: skip


def test_committed_results_can_be_read() -> None:
    results = read_results(folder=RESULTS)
    assert set(results) <= set(BENCHES)
    assert all(record.bench == bench for bench in results for record in results[bench])
