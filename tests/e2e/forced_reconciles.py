"""Reconciles that a test forces one by one, and counts by the operator's own metrics.

A hundred edits in a burst are one or two reconciles, because the operator's queue merges them. Here
the next edit waits until the operator says that it has run since the last one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import urllib3

from tests.e2e.operator_release import NAMESPACE, Release
from tests.support.cluster import ApiRefused, Space, Wire, eventually
from tests.support.operator_process import metric_value

__all__ = ["Counters", "Forced", "followed"]

METRICS_PORT = 9090
TURN_S = 60.0
"""Longest wait for one reconcile; a restart of the operator fits into it."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What an operator says about itself."""

    runs: float
    """Reconciles that ended."""
    busy: float
    """Reconciles that are under way."""
    applies: float
    """Children that were applied."""

    @classmethod
    def of(cls, text: str) -> Counters:
        """Read them from its metrics."""
        return cls(
            runs=metric_value(text, "deepseek_operator_reconcile_total"),
            busy=metric_value(text, "deepseek_operator_queue_busy"),
            applies=metric_value(text, "deepseek_operator_child_requests_total", action="apply"),
        )


class Forced:
    """Forces reconciles of a pipeline of one autoscaled model.

    Every third turn changes a child, so that the reconcile has to apply it again; the others touch
    the pipeline. No child is chosen whose change would start or stop pods.
    """

    def __init__(self, space: Space, release: Release, pipeline: str, model: str) -> None:
        self.count = 0
        """Edits that were followed by a reconcile before the next edit."""
        self.repairs = 0
        """Those of them in which the operator applied a child."""
        self._space, self._release = space, release
        self._pipeline, self._name = pipeline, f"{pipeline}-{model}"
        self._turns = itertools.count()

    def until(
        self,
        condition: Callable[[], bool],
        *,
        at_least: int,
        timeout_s: float = 300.0,
        what: str | Callable[[], str] = "the condition",
    ) -> None:
        """Force reconciles until the condition holds, and so many at least.

        Raises:
            AssertionError: the condition does not come true in time, or nothing reconciles.
        """
        limit, first = time.monotonic() + timeout_s, self.count
        while not condition() or self.count - first < at_least:
            if time.monotonic() > limit:
                text = what if isinstance(what, str) else what()
                raise AssertionError(f"{self.count - first} reconciles, and not so: {text}")
            self._turn()

    def _turn(self) -> None:
        number = next(self._turns)
        before = self._counters()
        if number % 3 == 2:
            self._disturb(number)
        else:
            note = {"metadata": {"annotations": {"example.com/turn": str(number)}}}
            self._space.merge("ModelPipeline", self._pipeline, note)
        after = eventually(
            lambda: self._later(before), timeout_s=TURN_S, what="nothing was reconciled"
        )
        self.count += 1
        self.repairs += after.applies > before.applies

    def _disturb(self, number: int) -> None:
        surge = {"maxSurge": "50%"}
        changes: list[tuple[str, str, Wire]] = [
            ("Service", self._name, {"metadata": {"labels": {"app.kubernetes.io/part-of": "x"}}}),
            ("PodDisruptionBudget", self._name, {"spec": {"maxUnavailable": "90%"}}),
            ("Deployment", self._name, {"spec": {"strategy": {"rollingUpdate": surge}}}),
        ]
        kind, name, patch = changes[number // 3 % len(changes)]
        self._space.merge(kind, name, patch)

    def _later(self, before: Counters) -> Counters | None:
        now = self._counters()
        return now if followed(before, now) else None

    def _counters(self) -> Counters:
        found: Counters = eventually(
            self._read, timeout_s=TURN_S, what="the operator's metrics cannot be read"
        )
        return found

    def _read(self) -> Counters | None:
        pods = [p for p in self._release.pods() if "deletionTimestamp" not in p["metadata"]]
        if len(pods) != 1:
            return None
        try:
            text = self._space.kube.pod_text(
                pods[0]["metadata"]["name"], NAMESPACE, "/metrics", port=METRICS_PORT
            )
        except (ApiRefused, urllib3.exceptions.HTTPError):
            return None
        return Counters.of(text)


def followed(before: Counters, now: Counters) -> bool:
    """Whether a reconcile both began and ended between two readings.

    Those that were under way at the first one end first, and do not count.
    """
    return now.runs >= before.runs + before.busy + 1
