"""How the operator behaves with hundreds of pipelines: ``make e2e-scale``.

A real control plane with pretended nodes holds the objects (see `scale_cluster`), so the operator
and the API server are measured and no pod. Not part of ``make bench``: it takes about an hour, and
operator and control plane share the cores of one machine, which should do nothing else meanwhile.
The exit status is 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.bars import BARS, bar_key, judge
from benchmarks.machine import Stamp
from benchmarks.record import RESULTS, Record, write_results
from benchmarks.run import table
from benchmarks.scale_cluster import ScaleCluster
from benchmarks.scale_figures import Look
from benchmarks.scale_load import ChildWatch, Key, at_fixed_times, expected_children, models
from benchmarks.scale_recorder import Recorder
from benchmarks.scale_records import BENCH, Bulk, Size, bulk_records, idle_records, paced_records
from deploy.cluster.versions import TOOLS
from tests.support.operator_process import OperatorProcess
from tests.support.pipelines_on_api import install_crd, operator_settings, pipeline

__all__ = ["Plan", "main", "status_of"]

NAMESPACES = 10
CONCURRENCY = 8
"""The operator's default."""
_PAUSE = threading.Event()
_LIMIT_S = 1800.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured; the defaults are what the bars are about."""

    pipelines: int = 500
    """Applied at once, three models each."""
    paced: int = 300
    """Applied afterwards, one a second; enough that p99 is not the worst one."""
    resync_s: float = 600.0
    """The operator's setting; 600 is its default and the chart's."""
    large: int = 1000
    """Applied at once to an empty cluster in the second part, five models each; 0: left out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show, write; the result is the exit status."""
    plan, results = _parse(argv)
    # Into a file rich would write lines of 80 characters.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    # A terminated run must leave no control plane behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stamp = Stamp.take(
        BENCH,
        ("kopf", "kubernetes", "aiohttp"),
        settings={
            "Kubernetes": TOOLS["kubernetes"].version,
            "kwok": TOOLS["kwok"].version,
            "resync": f"{plan.resync_s:g} s",
        },
    )
    records = _measure(plan, stamp, lambda line: console.print(f"  [dim]{line}[/dim]"))
    console.print(table(records))
    write_results(BENCH, records, folder=results)
    if results == RESULTS:
        report.main([])
    return status_of(records)


def status_of(records: Sequence[Record]) -> int:
    """Exit status: 0 when every bar of this bench was measured and is reached."""
    bars = {key for key in BARS if key[0] == BENCH}
    measured = {bar_key(record) for record in records}
    verdicts = [verdict for record in records if (verdict := judge(record))]
    return 0 if bars <= measured and all(verdict.passed for verdict in verdicts) else 1


def _parse(argv: Sequence[str] | None) -> tuple[Plan, Path]:
    full = Plan()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator_scale")
    parser.add_argument("--pipelines", type=int, default=full.pipelines, help="applied at once")
    parser.add_argument("--paced", type=int, default=full.paced, help="applied one a second")
    parser.add_argument("--resync-s", type=float, default=full.resync_s, help="of the operator")
    parser.add_argument("--large", type=int, default=full.large, help="second part; 0: none")
    parser.add_argument("--results", type=Path, help="folder; needed for a smaller run")
    given = parser.parse_args(argv)
    plan = Plan(
        pipelines=given.pipelines, paced=given.paced, resync_s=given.resync_s, large=given.large
    )
    if given.results is None and plan != full:
        parser.error("a smaller run proves nothing about the bars: give it --results FOLDER")
    return plan, given.results or RESULTS


def _measure(plan: Plan, stamp: Stamp, say: Say) -> list[Record]:
    size = Size(pipelines=plan.pipelines, models=3)
    with _bench(size, plan) as bench:
        say(f"{size}: applying")
        bulk = bench.bulk()
        records = bulk_records(stamp, bulk, cores=os.cpu_count() or 1, concurrency=CONCURRENCY)
        say(f"children {bulk.children_s:.0f} s; {plan.paced} more, one a second")
        latencies = bench.paced(plan.paced)
        records += paced_records(stamp, latencies)
        say(f"deleting those {plan.paced}, then idle for two resyncs")
        bench.delete(range(plan.pipelines, plan.pipelines + plan.paced))
        # A minute more, so that no way of placing the stretch can miss a resync.
        quiet = bench.idle(2 * plan.resync_s + 60)
        records += idle_records(stamp, quiet, bench.recorder.looks, size)
    if plan.large:
        size = Size(pipelines=plan.large, models=5)
        with _bench(size, plan) as bench:
            say(f"{size}: applying")
            bulk = bench.bulk()
            records += bulk_records(
                stamp, bulk, cores=os.cpu_count() or 1, concurrency=CONCURRENCY, part="large"
            )
            quiet = bench.idle(plan.resync_s + 60)
            records += idle_records(stamp, quiet, bench.recorder.looks, size, part="large")
    return records


@dataclass(frozen=True, slots=True)
class _Bench:
    """A running control plane, a running operator, and what looks at them."""

    api: ScaleCluster
    operator: OperatorProcess
    watch: ChildWatch
    recorder: Recorder
    size: Size

    def bulk(self) -> Bulk:
        """Apply all pipelines at once and wait until everything is there and ready."""
        started = time.monotonic()
        first = self.recorder.look()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._put, range(self.size.pipelines)))
        applied = time.monotonic()
        self._wait(lambda: len(self.watch.complete()) >= self.size.pipelines)
        last = self.recorder.look()
        self._wait(lambda: self._ready() >= self.size.pipelines)
        return Bulk(
            size=self.size,
            apply_s=applied - started,
            children_s=max(self.watch.complete().values()) - started,
            ready_s=time.monotonic() - started,
            children=self.watch.alive(),
            looks=tuple(self.recorder.looks[first : last + 1]),
        )

    def paced(self, count: int) -> list[float]:
        """Seconds from the planned start of each apply until the last child was there."""
        first = self.size.pipelines
        planned = at_fixed_times(lambda number: self._put(first + number), count, every_s=1.0)
        total = first + count
        self._wait(lambda: len(self.watch.complete()) >= total)
        complete = self.watch.complete()
        return [complete[_key(first + number)] - at for number, at in enumerate(planned)]

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete pipelines and wait until their children are gone."""
        per_pipeline = expected_children(models(self.size.models)).total()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: self.api.delete(_path(number)), numbers))
        self._wait(lambda: self.watch.alive() <= self.size.pipelines * per_pipeline)
        self._wait(lambda: self._known() <= self.size.pipelines)

    def idle(self, seconds: float) -> list[Look]:
        """The looks of a stretch in which nothing is changed."""
        # What the last change set off may settle first.
        _PAUSE.wait(30)
        return self.recorder.during(lambda: _PAUSE.wait(seconds))

    def _put(self, number: int) -> None:
        _, name = _key(number)
        self.api.apply(_path(number), pipeline(name, models=models(self.size.models)))

    def _ready(self) -> float:
        return self.operator.metric("deepseek_operator_pipelines", ready="True")

    def _known(self) -> float:
        return self.operator.metric("deepseek_operator_pipelines")

    def _wait(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + _LIMIT_S
        while not condition():
            if time.monotonic() > limit:
                complete = len(self.watch.complete())
                raise TimeoutError(
                    f"nothing came of it in {_LIMIT_S:g} s: {complete} complete, "
                    f"{self._ready():g} ready; {self.watch.trouble}"
                )
            _PAUSE.wait(0.1)


@contextlib.contextmanager
def _bench(size: Size, plan: Plan) -> Iterator[_Bench]:
    expected = expected_children(models(size.models))
    with tempfile.TemporaryDirectory() as scratch, ScaleCluster(Path(scratch)) as api:
        install_crd(api)
        for number in range(NAMESPACES):
            api.request("POST", "/api/v1/namespaces", {"metadata": {"name": f"scale-{number}"}})
        settings = operator_settings(Path(scratch)) | {
            "resyncS": plan.resync_s,
            "concurrency": CONCURRENCY,
        }
        user = api.operator_user()
        with (
            ChildWatch(api.port, api.context, expected) as watch,
            OperatorProcess(user, Path(scratch), settings) as operator,
        ):
            operator.wait_healthy()
            with Recorder(api, operator) as recorder:
                yield _Bench(api, operator, watch, recorder, size)


def _key(number: int) -> Key:
    return f"scale-{number % NAMESPACES}", f"p{number}"


def _path(number: int) -> str:
    namespace, name = _key(number)
    return f"/apis/deepseek.ai/v1alpha1/namespaces/{namespace}/modelpipelines/{name}"


if __name__ == "__main__":
    sys.exit(main())
