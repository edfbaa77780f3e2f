"""Figures of scale and chaos become records that have bars, pages and an exit status."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks import operator_scale, report
from benchmarks.bars import BARS, bar_key, judge
from benchmarks.chaos_records import Course, Turn, chaos_records
from benchmarks.machine import Stamp
from benchmarks.record import Record, read_results, write_results
from benchmarks.scale_figures import OPERATOR, REST
from benchmarks.scale_records import (
    BENCH,
    Bulk,
    Size,
    bulk_records,
    idle_records,
    paced_records,
)
from tests.unit.benchmarks.test_scale_figures import look

SIZE = Size(pipelines=500, models=3)
STAMP = Stamp(
    bench=BENCH, device="Some CPU", versions={"kopf": "1"}, commit="0123456789ab", date="2026-01-02"
)
BUSY = (
    look(0.0, cpu_s={OPERATOR: 1.0, REST: 0.0}),
    look(
        100.0, cpu_s={OPERATOR: 96.0, REST: 1.0}, reconciles=500.0, reconcile_s=100.0,
        requests=9000.0, request_s=45.0, depth=200.0,
    ),
)  # fmt: skip
BULK = Bulk(
    size=SIZE, apply_s=20.0, children_s=100.0, ready_s=130.0, children=8500, looks=BUSY
)  # fmt: skip
LATENCIES = [0.4] * 290 + [2.0] * 10
QUIET = [
    look(at, requests=at * 20.0, rss_mib=200.0 + at / 1000.0)
    for at in map(float, range(0, 1261, 5))
]
COURSE = Course(
    turns=(Turn("operator", 3.0, 6.0), Turn("operator", 5.0, 9.0), Turn("worker pod", 4.0, 5.0)),
    samples=900, missed=1, median_gap_s=0.11, budget=5, most_possible=5, longest_lie_s=1.5,
    longest_orphan_s=2.0, longest_orphan="Pod p (u)", autoscaler_changes=3,
)  # fmt: skip


def scale_records(
    bulk: Bulk = BULK, latencies: list[float] = LATENCIES, quiet: Any = QUIET
) -> list[Record]:
    return [
        *bulk_records(STAMP, bulk, cores=2, concurrency=8),
        *paced_records(STAMP, latencies),
        *idle_records(STAMP, quiet, quiet, SIZE),
    ]


def value(records: list[Record], metric: str) -> float:
    (found,) = [record.value for record in records if record.metric == metric]
    return found


def test_a_good_run_reaches_every_bar_and_ends_well() -> None:
    assert operator_scale.status_of(scale_records()) == 0


@pytest.mark.parametrize(
    "records",
    [
        scale_records(bulk=dataclasses.replace(BULK, children_s=241.0)),
        scale_records(latencies=[1.2] * 300),
        scale_records(latencies=[0.4] * 290 + [6.0] * 10),
        scale_records(quiet=[dataclasses.replace(one, requests=one.at * 31) for one in QUIET]),
        scale_records(
            quiet=[
                dataclasses.replace(one, requests=2000.0 if one.at >= 600 else 0.0) for one in QUIET
            ]
        ),
        scale_records(quiet=[dataclasses.replace(one, rss_mib=401.0) for one in QUIET]),
        scale_records(quiet=[dataclasses.replace(one, rss_mib=one.at / 100) for one in QUIET]),
        scale_records()[:-7],
        [],
    ],
    ids=["children late", "p50", "p99", "idle requests", "a burst of a resync", "memory",
         "memory grows", "idle not measured", "nothing measured"],
)  # fmt: skip
def test_a_missed_or_absent_figure_is_an_exit_status(records: list[Record]) -> None:
    assert operator_scale.status_of(records) == 1


def test_the_second_part_has_no_bars() -> None:
    size = Size(pipelines=1000, models=5)
    bulk = dataclasses.replace(BULK, size=size, children_s=9000.0)
    records = bulk_records(STAMP, bulk, cores=2, concurrency=8, part="large")
    records += idle_records(STAMP, QUIET, QUIET, size, part="large")
    assert [record for record in records if judge(record)] == []
    assert records[0].case == "large: applied at once (1,000 pipelines, 5,000 Deployments)"


def test_the_first_bottleneck_is_named_with_its_data() -> None:
    records = bulk_records(STAMP, BULK, cores=2, concurrency=8)
    (found,) = [record for record in records if record.metric == "how full"]
    assert found.case == "first bottleneck (the operator's one thread)"
    assert found.value == 95.0
    assert value(records, "processor time, operator") == 0.95
    assert value(records, "reconcile, mean") == 0.2
    assert value(records, "reconciles") == 5.0
    assert value(records, "API request inside the server, mean") == 5.0
    assert value(records, "queue depth, mean") == 100.0


def test_latencies_are_told_with_their_number_and_their_worst() -> None:
    records = paced_records(STAMP, LATENCIES)
    assert [record.value for record in records] == [0.4, 2.0, 2.0]
    assert {record.n for record in records} == {300}


def test_what_was_written_can_be_read_and_shown(tmp_path: Path) -> None:
    write_results(BENCH, scale_records(), folder=tmp_path)
    chaos = chaos_records(dataclasses.replace(STAMP, bench="operator_chaos"), COURSE)
    write_results("operator_chaos", chaos, folder=tmp_path)
    page = report.render(read_results(folder=tmp_path))
    assert "Again: `make e2e-scale`" in page
    assert "Again: `make e2e-chaos`" in page
    row = "| applied at once (500 pipelines, 1,500 Deployments) | until all children exist "
    assert f"{row}| **100** s |  |  | ≤ 240 s | passes |" in page


def test_every_bar_of_the_operator_finds_its_figure() -> None:
    chaos = chaos_records(dataclasses.replace(STAMP, bench="operator_chaos"), COURSE)
    measured = {bar_key(record) for record in [*scale_records(), *chaos]}
    assert {key for key in BARS if key[0].startswith("operator_")} <= measured


def test_recovery_is_told_for_each_kind_of_kill() -> None:
    records = chaos_records(STAMP, COURSE)
    found = {(record.case, record.metric): (record.value, record.n) for record in records}
    assert found["operator", "recovery, p50"] == (4.0, 2)
    assert found["operator", "recovery, longest"] == (5.0, 2)
    assert found["worker pod", "recovery, p50"] == (4.0, 1)
    assert found["all kinds", "recovery, longest"] == (5.0, 3)
    assert found["whole run (3 kills)", "longest untrue Ready"] == (1.5, 900)


@pytest.mark.parametrize("argument", ["--pipelines=20", "--paced=5", "--large=0", "--resync-s=60"])
def test_a_smaller_run_cannot_replace_the_committed_results(argument: str) -> None:
    with pytest.raises(SystemExit) as refused:
        operator_scale.main([argument])
    assert refused.value.code == 2
