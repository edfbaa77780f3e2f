"""The harness of GPU benches over a timer that is not one: order, records, resuming, failures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.bars import GPU_BARS, judge
from benchmarks.gpu.goals import ORDER, PARTS, record_case
from benchmarks.gpu.running import AGAIN, OWN, STATES, Case, Machine, Outcome, run_parts
from benchmarks.gpu.timing import Call, copies_for, measure
from benchmarks.record import Record, read_results

MACHINE = Machine("Some GPU (80 GiB)", {"torch": "2.11.0"}, "0123456789ab", "2026-01-02")


class Turn:
    """Gives the seconds that the subject's call returns."""

    def __init__(self, calls: Sequence[Call], order: list[Any], graph: bool) -> None:
        self.graph, self._calls, self._order = graph, calls, order

    def seconds(self) -> float:
        found: float = self._calls[0]()
        self._order.append(found)
        return found


class FakeTimer:
    """Prepares calls that return their own time; a call that raises cannot be prepared."""

    def __init__(self, *, graph: bool = True) -> None:
        self.order: list[float] = []
        self._graph = graph

    def prepare(self, calls: Sequence[Call]) -> Turn:
        for call in calls:
            call()
        return Turn(calls, self.order, self._graph)


def taking(seconds: float) -> list[Call]:
    return [lambda: seconds]


def broken(words: str = "no such instruction") -> list[Call]:
    def call() -> float:
        raise RuntimeError(words)

    return [call]


def case(own: float = 1e-5, peer: float = 2e-5, **fields: Any) -> Case:
    subjects = {OWN: taking(own), AGAIN: taking(own * 1.01), "torch fp16": taking(peer)}
    return Case("M=1", "4096 x 4096", subjects, **fields)


def run(
    folder: Path, parts: Mapping[str, Callable[[], Iterable[Case]]], **options: Any
) -> list[Outcome]:
    given: dict[str, Any] = {"budget_s": 100.0, "rounds": 3, "clock": lambda: 0.0} | options
    return run_parts(parts, FakeTimer(), MACHINE, folder, **given)


def records(folder: Path, part: str) -> list[Record]:
    return list(read_results(folder=folder)[f"gpu_{part}"])


def test_subjects_have_their_turns_in_every_round() -> None:
    timer = FakeTimer()
    found, failed = measure({"a": taking(1.0), "b": taking(2.0)}, timer, rounds=3)
    assert timer.order == [1.0, 2.0] * 3
    assert found["b"].median == 2.0
    assert not failed


def test_a_peer_that_fails_is_told_and_the_others_are_timed() -> None:
    found, failed = measure({OWN: taking(1.0), "peer": broken()}, FakeTimer(), rounds=2)
    assert set(found) == {OWN}
    assert failed == {"peer": "RuntimeError: no such instruction"}


@pytest.mark.parametrize(
    ("nbytes", "cache", "copies"), [(100, 50, 2), (1, 50, 48), (1 << 40, 50, 1), (200, 50, 1)]
)
def test_inputs_are_four_times_what_the_cache_holds(nbytes: int, cache: int, copies: int) -> None:
    assert copies_for(nbytes, cache) == copies


def test_records_are_those_of_the_performance_page(tmp_path: Path) -> None:
    shapes = [case(1e-5, 2e-5, work=1e9, unit="TB/s"), case(1e-5, 8e-5)]
    (outcome,) = run(tmp_path, {"k1": lambda: shapes})
    assert outcome.state == "measured"
    found = {(r.case, r.metric, r.peer): r for r in records(tmp_path, "k1")}
    one = found["M=1, 4096 x 4096", "time", "torch fp16"]
    assert (one.value, one.unit, one.n, one.device) == (10.0, "us", 3, "Some GPU (80 GiB)")
    assert found["M=1, 4096 x 4096", "rate", None].value == 100.0
    noise = found["M=1, 4096 x 4096", "time", AGAIN]
    assert noise.ratio == 1.01
    # Of the shapes, and never of the noise: sqrt(2 * 8) = 4.
    mean = found["M=1 against torch fp16, geometric mean", "speed-up", None]
    assert mean.value == 4.0
    assert not any(AGAIN in r.case for r in found.values())
    verdict = judge(mean)
    assert verdict is not None
    assert verdict.passed
    page = report.render(read_results(folder=tmp_path))
    assert "## GPU: W4A16, few rows" in page
    assert "| M=1 against torch fp16, geometric mean | speed-up | **4** x |" in page
    assert "`python -m benchmarks.gpu --again --parts k1`" in page


def test_a_part_that_is_there_for_this_commit_and_device_is_kept(tmp_path: Path) -> None:
    made = []

    def cases() -> list[Case]:
        made.append(1)
        return [case()]

    parts = {"k1": cases}
    assert [o.state for o in run(tmp_path, parts)] == ["measured"]
    assert [o.state for o in run(tmp_path, parts)] == ["kept"]
    assert [o.state for o in run(tmp_path, parts, again=True)] == ["measured"]
    other = Machine("Another GPU", {}, MACHINE.commit, MACHINE.date)
    run_parts(parts, FakeTimer(), other, tmp_path, budget_s=100, clock=lambda: 0.0)
    assert len(made) == 3


def test_when_the_time_is_over_the_part_is_cut_and_begun_again_later(tmp_path: Path) -> None:
    times = iter([0.0, 1.0, 2.0, 200.0, 201.0, 202.0])
    parts = {"k1": lambda: [case(), case()], "k4": lambda: [case()]}
    outcomes = run(tmp_path, parts, clock=lambda: next(times))
    assert [(o.part, o.state) for o in outcomes] == [("k1", "measured"), ("k4", "skipped")]
    assert "cut off" in outcomes[0].detail
    assert [o.state for o in run(tmp_path, parts)] == ["measured", "measured"]
    assert [o.state for o in run(tmp_path, parts)] == ["kept", "kept"]


def test_a_part_that_fails_does_not_cost_the_others_their_turn(tmp_path: Path) -> None:
    def fails() -> Iterator[Case]:
        yield case()
        raise RuntimeError("out of memory")

    outcomes = run(tmp_path, {"k1": fails, "k4": lambda: [case()]})
    assert (outcomes[0].state, outcomes[0].detail) == ("failed", "RuntimeError: out of memory")
    assert outcomes[1].state == "measured"
    state = json.loads((tmp_path / STATES / "k1.json").read_text())
    assert "out of memory" in state["failed"]


def test_what_was_left_out_is_recorded_with_its_reason(tmp_path: Path) -> None:
    subjects = {OWN: taking(1.0), "torchao": broken("a wrong version")}
    given = Case("M=1", "8 x 8", subjects, skipped={"gemlite": "not installed and not carried"})
    run(tmp_path, {"k1": lambda: [given]})
    state = json.loads((tmp_path / STATES / "k1.json").read_text())
    assert state["left_out"] == {
        "M=1, 8 x 8: gemlite": "not installed and not carried",
        "M=1, 8 x 8: torchao": "RuntimeError: a wrong version",
    }


def test_without_our_own_figure_there_is_no_record(tmp_path: Path) -> None:
    given = Case("M=1", "8 x 8", {"peer": taking(1.0)}, skipped={OWN: "gives other numbers"})
    (outcome,) = run(tmp_path, {"k1": lambda: [given]})
    assert outcome.state == "skipped"
    assert records(tmp_path, "k1") == []


def test_calls_outside_a_graph_are_marked(tmp_path: Path) -> None:
    run_parts(
        {"k1": lambda: [case()]},
        FakeTimer(graph=False),
        MACHINE,
        tmp_path,
        budget_s=1,
        rounds=2,
        clock=lambda: 0.0,
    )
    assert any(r.case.endswith("(without a graph)") for r in records(tmp_path, "k1"))


def test_throughput_counts_the_items_of_a_call(tmp_path: Path) -> None:
    given = Case("batch 128, bf16", "128 tokens", {OWN: taking(0.008)}, throughput=128.0)
    run(tmp_path, {"bert": lambda: [given]})
    found = {r.metric: r for r in records(tmp_path, "bert")}
    assert (found["throughput"].value, found["latency"].value) == (16000.0, 8.0)
    verdict = judge(found["throughput"])
    assert verdict is not None
    assert verdict.passed


def test_the_order_holds_every_part_once() -> None:
    assert sorted(ORDER) == sorted(PARTS)


def test_every_goal_has_a_bar_under_the_case_that_is_recorded() -> None:
    for name, part in PARTS.items():
        for goal in part.goals:
            assert (f"gpu_{name}", record_case(goal), goal.metric, None) in GPU_BARS
            better = goal.stretch is None or (
                goal.stretch > goal.must if goal.kind == "at least" else goal.stretch < goal.must
            )
            assert better, f"{name}: {goal.case}"
