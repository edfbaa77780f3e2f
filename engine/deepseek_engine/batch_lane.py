"""A model that works in batches of whole requests: its queue, and the copies that can answer.

Why it exists: a model may be loaded at two precisions, and which of them computes a batch is
decided when the batch starts. Everything else (queue, weight, admission) belongs to the model and
not to a copy. The walk of a request is here: prepare, queue, batch, put the rows together, finish.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from deepseek_api.errors import DeepseekError, ErrorCode, InferenceError

from deepseek_engine.admission import admit, empty_queue, expired, stopping
from deepseek_engine.batching import Batch, Work
from deepseek_engine.codec import Array
from deepseek_engine.execution import Outcome, run_parts
from deepseek_engine.generation.requests import GenerationChunk, GenerationRequest
from deepseek_engine.jobs import Job, PartWork
from deepseek_engine.latency import LatencyModel
from deepseek_engine.loading import Loaded
from deepseek_engine.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelConfig,
    ModelStats,
    Timing,
)
from deepseek_engine.precision import PrecisionSwitch
from deepseek_engine.tasks.base import Prepared

__all__ = ["BatchLane", "Surroundings", "Twin"]

logger = logging.getLogger(__name__)

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a lane needs of the engine around it."""

    clock: Callable[[], float]
    """Monotonic seconds, the clock of deadlines."""
    notify: Callable[[], None]
    """Tells the device that there may be work."""
    executor: Executor
    """Runs what would hold up the event loop."""


@dataclass(slots=True, eq=False)
class Twin:
    """A lower-precision copy, and what decides when it computes."""

    loaded: Loaded
    switch: PrecisionSwitch
    latency: LatencyModel = field(default_factory=LatencyModel)
    """How long the copy's batches take."""


@dataclass(slots=True, eq=False)
class _Unit:
    """A batch on its way, and the copy that computes it."""

    loaded: Loaded
    batch: Batch[PartWork]


class BatchLane:
    """One loaded model; a `Lane`."""

    def __init__(
        self,
        config: ModelConfig,
        loaded: Loaded,
        *,
        twin: Twin | None,
        stats: ModelStats,
        around: Surroundings,
    ) -> None:
        self.name = config.name
        self.stats = stats
        self.loaded = loaded
        self.twin: Twin | None = None
        self.queue = empty_queue(config)
        self._latency = self.queue.latency
        self._limit = config.max_queue_size
        self._around = around
        self._jobs: set[Job] = set()
        self._preparing = 0
        self._stopped = False
        if loaded.row_batching == "single":
            self.queue.limit(1)
        self.set_twin(twin)

    @property
    def adapts(self) -> bool:
        """Whether there is a second copy to choose."""
        return self.twin is not None

    @property
    def serving(self) -> Loaded:
        """The copy that computes the next batch."""
        return self.twin.loaded if self.twin and self.twin.switch.lowered else self.loaded

    @property
    def memory_bytes(self) -> int:
        """Estimated memory of all copies."""
        twin = self.twin.loaded.info.memory_bytes if self.twin else 0
        return self.loaded.info.memory_bytes + twin

    def set_twin(self, twin: Twin | None) -> Twin | None:
        """Give the model a second copy, or take it away; gives the one that was there."""
        before, self.twin = self.twin, twin
        self._show()
        return before

    def replace(self, loaded: Loaded) -> Loaded:
        """Let another copy compute from the next batch on; gives the one that was there.

        What is prepared for one must fit the other: both are of one variant.
        """
        before, self.loaded = self.loaded, loaded
        self._show()
        return before

    def update(self, *, load: float, own: float, now: float) -> None:
        """Choose the copy for the next batch; see `Lane.update`."""
        if self.twin is None or not self.twin.switch.update(load=load, own=own, now=now):
            return
        self.stats.precision_switches += 1
        self._show()
        logger.info(
            "precision lowered" if self.twin.switch.lowered else "precision raised again",
            extra={
                "model": self.name,
                "variant": self.serving.info.variant,
                "device_load": round(load, 3),
            },
        )

    def release_at(self, now: float) -> float | None:
        """When the next batch should start."""
        return self.queue.release_at(now)

    def begin(self, now: float) -> _Unit:
        """Take the next batch out of the queue."""
        batch, loaded = self.queue.next_batch(now), self.serving
        self.stats.running += batch.rows
        for item in batch.items:
            self.stats.waiting -= item.payload.job.begin(now, loaded.info)
        return _Unit(loaded, batch)

    def compute(self, unit: _Unit) -> list[Outcome]:
        """Run a batch on the device's thread."""
        items = unit.batch.items
        # Requests of a batch may want different outputs; the graph computes what any of them wants.
        wanted = dict.fromkeys(
            name for item in items for name in item.payload.job.prepared.graph_outputs
        )
        parts = [item.payload.part for item in items]
        return run_parts(unit.loaded.backend, unit.loaded.task, parts, outputs=list(wanted))

    def finish(self, unit: _Unit, result: list[Outcome], *, seconds: float) -> None:
        """Count a batch and put its answers out."""
        self._account(unit, seconds=seconds)
        _deliver(unit.batch, result, seconds=seconds)

    def fail(self, unit: _Unit, error: Exception, *, seconds: float) -> None:
        """Fail the requests of a batch that was not computed."""
        if seconds:
            self._account(unit, seconds=seconds)
        else:
            self.stats.running -= unit.batch.rows
        shown = error if isinstance(error, DeepseekError) else _internal()
        for item in unit.batch.items:
            item.payload.job.fail(shown)

    async def infer(self, request: InferenceRequest, rows: int) -> InferenceResponse:
        """Answer a request of so many rows, which was checked.

        Raises:
            QueueFullError: too many rows wait.
            DeepseekError: it could not be prepared or computed.
        """
        admit(
            self.name,
            self.stats,
            rows,
            waiting=self.queue.rows + self._preparing,
            limit=self._limit,
        )
        begin = self._around.clock()
        loaded, job = self.loaded, None
        heavy = loaded.task.is_heavy(request)
        self.stats.waiting += 1
        try:
            prepared = await self._prepare(request, rows=rows, heavy=heavy)
            job = Job(
                prepared=prepared,
                future=asyncio.get_running_loop().create_future(),
                enqueued=self._around.clock(),
            )
            arrays = await self._wait(job, request)
        finally:
            if job is None or job.started is None:
                self.stats.waiting -= 1
        finishing = self._around.clock()
        outputs = await self._offload(heavy, lambda: loaded.task.finish(prepared, arrays))
        self.stats.requests += 1
        timing = Timing(
            preprocess_ms=(job.enqueued - begin) * 1e3,
            queue_ms=job.queue_s * 1e3,
            compute_ms=job.compute_s * 1e3,
            postprocess_ms=(self._around.clock() - finishing) * 1e3,
            batch_rows=job.batch_rows,
        )
        random = loaded.info.random_weights
        return InferenceResponse(outputs, job.variant, job.precision, random, timing)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Refuse: this model does not generate.

        Raises:
            InferenceError: INVALID_ARGUMENT.
        """
        raise InferenceError(
            f"The model '{self.name}' does not generate: its task is {self.loaded.info.task}.",
            code=ErrorCode.INVALID_ARGUMENT,
            hint="Send it an inference instead.",
            reason="NotGenerating",
        )

    def stop(self) -> None:
        """Fail the requests that wait."""
        self._stopped = True
        for job in list(self._jobs):
            job.fail(stopping())

    def close(self) -> None:
        """Free all copies."""
        self.loaded.backend.close()
        if self.twin is not None:
            self.twin.loaded.backend.close()

    async def _prepare(self, request: InferenceRequest, *, rows: int, heavy: bool) -> Prepared:
        self._preparing += rows
        try:
            prepared = await self._offload(heavy, lambda: self.loaded.task.prepare(request))
        finally:
            self._preparing -= rows
        if request.deadline is not None and request.deadline <= self._around.clock():
            raise expired()
        if self._stopped:
            raise stopping()
        return prepared

    async def _wait(self, job: Job, request: InferenceRequest) -> Mapping[str, Array]:
        """Queue a job and wait for its rows; it leaves the queue however the waiting ends."""
        for part in job.prepared.parts:
            work = Work(
                rows=len(part.rows),
                bucket=part.bucket,
                arrival=job.enqueued,
                deadline=request.deadline,
                priority=request.priority,
                payload=PartWork(job, part),
            )
            job.works.append(work)
            self.queue.add(work)
        self._around.notify()
        self._jobs.add(job)
        try:
            return await job.future
        finally:
            self._jobs.discard(job)
            for work in job.works:
                self.queue.remove(work)

    async def _offload(self, heavy: bool, function: Callable[[], R]) -> R:
        if not heavy:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._around.executor, function)

    def _account(self, unit: _Unit, *, seconds: float) -> None:
        batch, stats, release = unit.batch, self.stats, str(unit.batch.release)
        self.queue.latency.observe(batch.bucket, rows=batch.rows, seconds=seconds)
        stats.running -= batch.rows
        stats.batches += 1
        stats.rows += batch.rows
        stats.releases[release] = stats.releases.get(release, 0) + 1
        stats.batch_rows[batch.rows] = stats.batch_rows.get(batch.rows, 0) + 1
        variant = unit.loaded.info.variant
        stats.variant_rows[variant] = stats.variant_rows.get(variant, 0) + batch.rows
        # Only back ends that have a faster way report what missed it.
        for reason, count in getattr(unit.loaded.backend, "fallbacks", {}).items():
            stats.fallbacks[f"{variant}/{reason}"] = count
        if self.twin is not None:
            lowered = unit.loaded is self.twin.loaded
            self.twin.switch.observe(lowered=lowered, rows=batch.rows, seconds=seconds)

    def _show(self) -> None:
        lowered = self.twin is not None and self.twin.switch.lowered
        # Each copy has its own times, and a batch is cut by those of the copy that will run it.
        self.queue.latency = self.twin.latency if self.twin and lowered else self._latency
        self.stats.precision = self.serving.info.precision


def _deliver(batch: Batch[PartWork], outcomes: list[Outcome], *, seconds: float) -> None:
    rows = batch.rows
    for item, outcome in zip(batch.items, outcomes, strict=True):
        job = item.payload.job
        job.compute_s += seconds
        job.batch_rows = max(job.batch_rows, rows)
        if isinstance(outcome, DeepseekError):
            job.fail(outcome)
            continue
        # Rows that do not fit together are one request's trouble: this loop must go on serving.
        try:
            job.add(item.payload.part, outcome)
        except Exception:
            logger.exception("the rows of a request cannot be put together")
            job.fail(_internal())


def _internal() -> DeepseekError:
    return DeepseekError(
        "The model failed to compute this request.", hint="The log of the engine has the cause."
    )
