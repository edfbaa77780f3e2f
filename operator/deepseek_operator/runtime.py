"""The parts of a running operator, joined.

Why it exists: the watching framework only names keys; everything else that runs (queue, workers,
resync) lives here and knows nothing of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepseek_api.v1alpha1.pipeline import GROUP, KIND

from deepseek_operator import labels
from deepseek_operator.catalogs import CatalogFile
from deepseek_operator.cluster import Cluster, ClusterError, Key, controller_of
from deepseek_operator.config import OperatorConfig
from deepseek_operator.endpoints import Endpoints
from deepseek_operator.liveness import Liveness, Unhealthy, WatchedPaths
from deepseek_operator.metrics import Metrics
from deepseek_operator.observed import K8sObject
from deepseek_operator.reconcile import Clock, Reconciler
from deepseek_operator.workqueue import Outcome, WorkQueue, run_workers

__all__ = ["Runtime", "resync_offset", "unanswered"]

_log = logging.getLogger(__name__)
RUN_LIMIT_S: Final = 300.0
"""A run that takes longer is cut off and tried again."""
_RESYNC_RETRY_S: Final = 15.0
_RESYNC_JITTER: Final = 0.1


@dataclass(slots=True)
class Runtime:
    """Queue, workers and resync around one reconciler."""

    cluster: Cluster
    """The API server."""
    config: OperatorConfig
    """Settings."""
    metrics: Metrics = field(default_factory=Metrics)
    """Metrics."""
    queue: WorkQueue = field(init=False)
    """Pipelines to look at."""
    watched: WatchedPaths = field(init=False)
    """What is watched; the watching session's observer."""
    liveness: Liveness = field(init=False)
    """The liveness verdict."""
    reconciler: Reconciler = field(init=False)
    """One look at one pipeline."""
    endpoints: Endpoints = field(init=False)
    """Health and metrics."""
    _rng: random.Random = field(default_factory=random.SystemRandom)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = WorkQueue(time.monotonic)
        self.watched = WatchedPaths(self.config.namespaces)
        self.liveness = Liveness(
            time.monotonic,
            queue=self.queue,
            watched=self.watched,
            resync_s=self.config.resync_s,
        )
        path = Path(self.config.catalog_file) if self.config.catalog_file else None
        self.reconciler = Reconciler(
            cluster=self.cluster,
            config=self.config,
            catalog=CatalogFile(path).current,
            clock=Clock(time.monotonic),
            metrics=self.metrics,
        )
        self.endpoints = Endpoints(
            check=self.check,
            registry=self.metrics.registry,
            health_port=self.config.health_port,
            metrics_port=self.config.metrics_port,
        )
        self.metrics.queue_depth.set_function(self.queue.depth)
        self.metrics.queue_busy.set_function(self.queue.busy)
        self.metrics.queue_oldest.set_function(self.queue.oldest_age)

    async def start(self) -> None:
        """Start workers, resync and endpoints in the running loop."""
        await self.endpoints.start()
        workers = run_workers(self.queue, self._work, concurrency=self.config.concurrency)
        self._tasks = [
            asyncio.create_task(workers, name="workers"),
            asyncio.create_task(self._resync(), name="resync"),
        ]

    async def stop(self) -> None:
        """Cancel what runs; every run can be repeated, so a cut one does no harm."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.endpoints.stop()

    def check(self) -> None:
        """Pass if the operator does its work.

        Raises:
            Unhealthy: it does not.
        """
        for task in self._tasks:
            if task.done():
                raise Unhealthy(f"The task '{task.get_name()}' ended.")
        self.liveness.check()

    def changed(self, body: Mapping[str, Any]) -> None:
        """An object changed, appeared or went: queue the pipeline that it matters to."""
        item = dict(body)
        if key := self.key_of(item):
            self.queue.add(key, urgent=unanswered(item))

    def key_of(self, item: K8sObject) -> Key | None:
        """The pipeline that an object matters to, or None."""
        metadata = item["metadata"]
        namespace = metadata.get("namespace", "")
        if item.get("kind") == KIND:
            return namespace, metadata["name"]
        owner = controller_of(item)
        if owner and owner["kind"] == KIND and owner["apiVersion"].startswith(f"{GROUP}/"):
            return namespace, owner["name"]
        if name := (metadata.get("labels") or {}).get(labels.PIPELINE):
            return namespace, name
        target = item.get("spec", {}).get("scaleTargetRef") or {}
        if target.get("kind") == "Deployment":
            return self.reconciler.pipeline_of(namespace, target["name"])
        return None

    async def _work(self, key: Key) -> Outcome:
        try:
            async with asyncio.timeout(RUN_LIMIT_S):
                return await self.reconciler.reconcile(key)
        except TimeoutError:
            _log.error("a reconcile took too long", extra={"namespace": key[0], "pipeline": key[1]})
            return Outcome(failed=True)

    async def _resync(self) -> None:
        while True:
            period = self.config.resync_s
            wait = period * self._rng.uniform(1 - _RESYNC_JITTER, 1 + _RESYNC_JITTER)
            try:
                keys = await self.cluster.list_pipelines()
            except ClusterError as error:
                _log.warning("the pipelines cannot be listed: %s", error)
                wait = min(wait, _RESYNC_RETRY_S)
            else:
                for key in keys:
                    self.queue.add(key, after_s=resync_offset(key, period))
            self.liveness.resync_turned()
            await asyncio.sleep(wait)


def unanswered(item: K8sObject) -> bool:
    """Whether an object is a pipeline with a change that its status does not answer yet.

    Somebody waits for it, while hundreds of pipelines that start may each report every pod.
    """
    if item.get("kind") != KIND:
        return False
    answered = (item.get("status") or {}).get("observedGeneration")
    return bool(item["metadata"].get("generation") != answered)


def resync_offset(key: Key, period_s: float) -> float:
    """How long after the list of a resync a pipeline is looked at, seconds.

    It is always the same for one pipeline, so that a period lies between two looks at it, and
    shorter than the shortest period, so that its look is over before the next list. Together the
    pipelines load the API server evenly.

    Args:
        key: the pipeline.
        period_s: time between two resyncs.
    """
    place = zlib.crc32("/".join(key).encode()) / 2**32
    return place * (1 - _RESYNC_JITTER) * period_s
