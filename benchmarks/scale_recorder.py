"""Looks at the operator, the API server and their processes every few seconds.

Why it exists: three readings of memory show no slope, and one count of requests may hit or miss a
resync. Everything that is counted is read at the same moments, beside the load.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psutil

from benchmarks.scale_cluster import ScaleCluster
from benchmarks.scale_figures import OPERATOR, REST, Look
from tests.support.operator_process import OperatorProcess, metric_value

__all__ = ["EVERY_S", "Recorder"]

EVERY_S = 5.0
"""Seconds between two looks."""
_BENCH = "this benchmark"
_RUN = "deepseek_operator_reconcile_duration_seconds"


class Recorder:
    """Looks while the block runs; a context manager."""

    def __init__(self, cluster: ScaleCluster, operator: OperatorProcess) -> None:
        self.looks: list[Look] = []
        self._cluster, self._operator = cluster, operator
        self._processes = {
            OPERATOR: psutil.Process(operator.pid),
            _BENCH: psutil.Process(),
            **{name: psutil.Process(pid) for name, pid in cluster.pids().items()},
        }
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="recorder")

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(30)

    def look(self) -> int:
        """Look now; gives the place of the look among all."""
        with self._lock:
            self.looks.append(self._look())
            return len(self.looks) - 1

    def during(self, work: Callable[[], object]) -> list[Look]:
        """The looks from the beginning to the end of some work."""
        first = self.look()
        work()
        last = self.look()
        return self.looks[first : last + 1]

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.look()

    def _look(self) -> Look:
        flow, text = self._cluster.operator_flow(), self._operator.metrics_text()
        cpu = {name: _seconds(process) for name, process in self._processes.items()}
        return Look(
            at=time.monotonic(),
            rss_mib=self._processes[OPERATOR].memory_info().rss / 2**20,
            cpu_s=cpu | {REST: _machine_s() - sum(cpu.values())},
            depth=metric_value(text, "deepseek_operator_queue_depth"),
            busy=metric_value(text, "deepseek_operator_queue_busy"),
            reconciles=metric_value(text, f"{_RUN}_count"),
            reconcile_s=metric_value(text, f"{_RUN}_sum"),
            requests=flow.requests,
            request_s=flow.request_s,
            waited_s=flow.waited_s,
        )


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _machine_s() -> float:
    """Seconds for which the machine's processors did something."""
    times = psutil.cpu_times()
    # What a hypervisor took away was no room for us either.
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)
