"""The performance page says what the results say, and notices when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.bars import BARS
from benchmarks.record import write_results
from tests.unit.benchmarks.records import fact, record


def test_without_results_the_page_says_that_nothing_was_measured() -> None:
    page = report.render({})
    assert "Nothing was measured yet" in page
    assert "| case |" not in page


def test_a_figure_stands_beside_its_peer_its_ratio_and_its_bar() -> None:
    page = report.render({"encoder_cpu": [record()]})
    row = next(line for line in page.splitlines() if line.startswith("| int8 as served"))
    assert row == (
        "| int8 as served (int8-avx2) | latency | **80** ms (78 to 85) | ONNX Runtime fp32: 160 "
        "| **2.00x** (1.90 to 2.05) | ≥ 1.6x | passes |"
    )


def test_a_figure_that_falls_short_is_named_at_the_top() -> None:
    page = report.render({"encoder_cpu": [record(ratio=1.2)]})
    assert "0 of 1 measured bars are reached." in page
    assert (
        "- int8 as served (int8-avx2), latency against ONNX Runtime fp32: falls short by 25 % "
        "of ≥ 1.6x"
    ) in page


def test_figures_without_a_bar_are_told_and_not_counted() -> None:
    page = report.render({"encoder_cpu": [record(), fact(metric="size", value=3.0, unit="MiB")]})
    assert "1 of 1 measured bars are reached." in page
    assert "| size | **3** MiB |  |  |  |  |" in page


def test_bars_that_were_not_measured_are_counted() -> None:
    page = report.render({"encoder_cpu": [record(), record(device="Another CPU")]})
    assert f"{len(BARS) - 1} of all {len(BARS)} were not measured." in page


def test_device_versions_date_commit_and_command_are_told_once_a_run() -> None:
    page = report.render({"encoder_cpu": [record(), record(case="other")]})
    assert page.count("Measured on Some CPU (x86_64, avx2, 2 threads), 2026-01-02") == 1
    assert "commit `0123456789ab`" in page
    assert "python 3.11.9, onnxruntime 1.31.1" in page
    assert "python -m benchmarks.run --only encoder_cpu" in page


def test_figures_of_two_machines_are_not_mixed_in_one_table() -> None:
    page = report.render({"encoder_cpu": [record(), record(device="Another CPU")]})
    assert page.count("| case | metric |") == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (12345.6, "12,346"), (123.45, "123"), (12.345, "12.3"), (0.25286, "0.253"),
        (0.99407, "0.9941"), (1.0, "1"),
    ],
)  # fmt: skip
def test_a_number_keeps_the_digits_that_matter(value: float, text: str) -> None:
    assert report.number(value) == text


def test_the_check_passes_on_the_page_that_was_written(tmp_path: Path) -> None:
    page, results = tmp_path / "performance.md", tmp_path / "results"
    write_results("encoder_cpu", [record()], folder=results)
    assert report.main([], path=page, results=results) == 0
    assert report.main(["--check"], path=page, results=results) == 0


def test_the_check_fails_on_drift_and_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, results = tmp_path / "performance.md", tmp_path / "results"
    report.main([], path=page, results=results)
    write_results("encoder_cpu", [record()], folder=results)
    assert report.main(["--check"], path=page, results=results) == 1
    assert "python -m benchmarks.report" in capsys.readouterr().err


def test_the_committed_page_is_what_the_committed_results_say() -> None:
    assert report.main(["--check"]) == 0
