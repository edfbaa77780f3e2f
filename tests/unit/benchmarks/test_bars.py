"""Bars find their figures and say by how much one falls short."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from benchmarks.about import BENCHES, WITH_BENCH
from benchmarks.bars import BARS, Bar, bar_of, judge
from tests.unit.benchmarks.records import fact, record

MEMORY: dict[str, Any] = {
    "bench": "footprint", "case": "front end", "metric": "resident memory", "unit": "MiB",
}  # fmt: skip
COSINE: dict[str, Any] = {
    "bench": "real_models", "case": "MiniLM auto (mixed-avx2)",
    "metric": "mean cosine with fp32", "unit": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (record(ratio=1.6), "passes"),
        (record(ratio=3.0), "passes"),
        (record(ratio=1.2), "falls short by 25 %"),
        (record(ratio=1.599), "falls short by < 1 %"),
        (record(ratio=None), "falls short by 100 %"),
        (fact(**MEMORY, value=120.0), "passes"),
        (fact(**MEMORY, value=150.0), "falls short by 25 %"),
        (fact(**COSINE, value=0.994), "passes"),
        (fact(**COSINE, value=0.8946), "falls short by 10 %"),
    ],
    ids=["ratio met", "ratio passed", "ratio missed", "ratio just missed", "ratio absent",
         "most met", "most missed", "least met", "least missed"],
)  # fmt: skip
def test_a_figure_is_judged_by_its_bar(figure: Any, text: str) -> None:
    assert str(judge(figure)) == text


@pytest.mark.parametrize(
    "figure",
    [record(peer="something else"), record(metric="other"), record(case="int8"), fact()],
    ids=["other peer", "other metric", "other case", "no peer"],
)
def test_a_figure_without_a_bar_is_not_judged(figure: Any) -> None:
    assert judge(figure) is None


def test_what_a_run_chose_does_not_hide_the_bar() -> None:
    assert bar_of(record(case="int8 as served (int8-vnni)")) == Bar("ratio", 1.6)


@pytest.mark.parametrize(
    ("bar", "text"),
    [
        (Bar("ratio", 0.95), "≥ 0.95x"),
        (Bar("at most", 120, "MiB"), "≤ 120 MiB"),
        (Bar("at least", 0.994), "≥ 0.994"),
    ],
    ids=["ratio", "most", "least"],
)
def test_a_bar_reads_as_a_bound(bar: Bar, text: str) -> None:
    assert str(bar) == text


def test_every_bar_belongs_to_a_bench_that_exists() -> None:
    assert {bench for bench, *_ in BARS} <= set(BENCHES)


@pytest.mark.parametrize("bench", WITH_BENCH)
def test_every_bench_has_a_module_that_runs_it(bench: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{bench}").run)
