"""The engine: requests in, answers out, one device shared by several models.

Why it exists: it is the one place that a request passes through, whether it came over a socket or
from the caller's own process. The walk: check, admit, prepare (text to tokens, picture to pixels),
queue, batch on the device, put the rows together, finish. It speaks no network protocol and must
be used from one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import msgspec
from deepseek_api.errors import (
    DeepseekError,
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
    QueueFullError,
)

from deepseek_engine.batching import BatchQueue, Work
from deepseek_engine.codec import Array
from deepseek_engine.device import Device, Lane
from deepseek_engine.execution import warm
from deepseek_engine.jobs import Job, PartWork
from deepseek_engine.loading import Loaded, load_model
from deepseek_engine.messages import (
    EngineConfig,
    Heartbeat,
    InferenceRequest,
    InferenceResponse,
    ModelConfig,
    ModelInfo,
    ModelState,
    ModelStats,
    Timing,
)
from deepseek_engine.tasks.base import Prepared
from deepseek_engine.validation import check_request

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

R = TypeVar("R")

_PREPARE_THREADS = 2
_RETRY_AFTER_S = (0.05, 5.0)
_WARM_RUNS = 2


class Engine:
    """Serves the models of a configuration in this process.

    Use it as ``async with Engine(config) as engine``, or call `start`, `load` and `close`.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        root: Path = Path("/"),
    ) -> None:
        """Prepare an engine that has loaded nothing yet.

        Args:
            config: the models and the bounds.
            clock: monotonic seconds, the clock of request deadlines.
            root: where ``/proc`` and ``/sys`` are.
        """
        self._config = config
        self._clock = clock
        self._root = root
        self._infos = {m.name: _waiting(m) for m in config.models}
        self._lanes = {m.name: Lane(m.name, _queue(m)) for m in config.models}
        self._configs = {m.name: m for m in config.models}
        self._preparing = dict.fromkeys(self._configs, 0)
        self._jobs: set[Job] = set()
        self._devices: dict[str, Device] = {}
        self._pool = ThreadPoolExecutor(_PREPARE_THREADS, thread_name_prefix="prepare")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._active = 0
        self._drained = asyncio.Event()
        self._closing = False

    async def __aenter__(self) -> Self:
        self.start()
        await self.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to serve; call it from the event loop."""
        for model in self._config.models:
            if model.device not in self._devices:
                device = self._devices[model.device] = Device(model.device, clock=self._clock)
                device.start()
            self._devices[model.device].add(self._lanes[model.name], weight=model.weight)

    async def load(self) -> None:
        """Load all models, one after the other; one that fails does not stop the others."""
        for model in self._config.models:
            try:
                await self._load(model)
            except DeepseekError as error:
                logger.error("model failed", extra={"model": model.name, "reason": error.reason})
                self._set_failed(model.name, reason=error.reason, message=str(error))
            # A defect in one model's files or back end must not take the other models down.
            except Exception:
                logger.exception("model failed", extra={"model": model.name})
                self._set_failed(
                    model.name,
                    reason="Internal",
                    message="Loading failed for an unexpected reason; the engine's log has it.",
                )

    def models(self) -> Mapping[str, ModelInfo]:
        """Models by name, as they are now."""
        return self._infos

    def stats(self) -> Mapping[str, ModelStats]:
        """Counters by model name, as they are now."""
        return {name: lane.stats for name, lane in self._lanes.items()}

    def heartbeat(self) -> Heartbeat:
        """What a front end is told twice a second."""
        busy = [d.busy_since for d in self._devices.values() if d.busy_since is not None]
        return Heartbeat(
            sent_at=self._clock(),
            device_busy_since=min(busy, default=None),
            models=dict(self._infos),
            stats=dict(self.stats()),
        )

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Run one request; see `EngineClient.infer`."""
        lane, loaded = self._lookup(request.model)
        rows = check_request(request, loaded.info)
        self._check_deadline(request)
        self._admit(lane, rows)
        self._active += 1
        try:
            # A timer for each request: an expired one is answered when it expires, whether it is
            # being prepared, waits or runs.
            async with asyncio.timeout(self._time_left(request)):
                return await self._answer(request, lane, loaded, rows)
        except TimeoutError:
            raise _expired() from None
        finally:
            self._active -= 1
            if self._active == 0:
                self._drained.set()

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Refuse new requests, let accepted ones finish for a while, then free everything.

        Args:
            grace_s: how long accepted requests may take; those left fail with UNAVAILABLE.
        """
        self._closing = True
        if self._active and grace_s > 0:
            self._drained.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._drained.wait()
            except TimeoutError:
                logger.warning("requests were left at the end of the grace period")
        for job in list(self._jobs):
            job.fail(_stopping())
        for device in self._devices.values():
            await device.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._loader.shutdown(wait=False, cancel_futures=True)
        for lane in self._lanes.values():
            if lane.loaded is not None:
                lane.loaded.backend.close()
                lane.loaded = None

    async def _answer(
        self, request: InferenceRequest, lane: Lane, loaded: Loaded, rows: int
    ) -> InferenceResponse:
        begin = self._clock()
        heavy = loaded.task.is_heavy(request)
        job = None
        lane.stats.waiting += 1
        try:
            prepared = await self._prepare(request, lane, loaded, rows=rows, heavy=heavy)
            job = Job(
                prepared=prepared,
                future=asyncio.get_running_loop().create_future(),
                enqueued=self._clock(),
            )
            arrays = await self._wait(job, request, lane)
        finally:
            if job is None or job.started is None:
                lane.stats.waiting -= 1
        finishing = self._clock()
        outputs = await self._offload(heavy, lambda: loaded.task.finish(prepared, arrays))
        lane.stats.requests += 1
        timing = Timing(
            preprocess_ms=(job.enqueued - begin) * 1e3,
            queue_ms=job.queue_s * 1e3,
            compute_ms=job.compute_s * 1e3,
            postprocess_ms=(self._clock() - finishing) * 1e3,
            batch_rows=job.batch_rows,
        )
        info = loaded.info
        return InferenceResponse(outputs, info.variant, info.precision, info.random_weights, timing)

    async def _prepare(
        self, request: InferenceRequest, lane: Lane, loaded: Loaded, *, rows: int, heavy: bool
    ) -> Prepared:
        self._preparing[lane.name] += rows
        try:
            prepared = await self._offload(heavy, lambda: loaded.task.prepare(request))
        finally:
            self._preparing[lane.name] -= rows
        self._check_deadline(request)
        if self._closing:
            raise _stopping()
        return prepared

    async def _wait(self, job: Job, request: InferenceRequest, lane: Lane) -> Mapping[str, Array]:
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
            lane.queue.add(work)
        device = self._devices[self._configs[lane.name].device]
        device.notify()
        self._jobs.add(job)
        try:
            return await job.future
        finally:
            self._jobs.discard(job)
            for work in job.works:
                lane.queue.remove(work)

    async def _offload(self, heavy: bool, function: Callable[[], R]) -> R:
        if not heavy:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def _lookup(self, name: str) -> tuple[Lane, Loaded]:
        if self._closing:
            raise _stopping()
        info = self._infos.get(name)
        if info is None:
            raise InferenceError(
                f"There is no model '{name}' here.",
                code=ErrorCode.NOT_FOUND,
                hint=f"Models: {', '.join(self._infos) or 'none'}.",
                reason="ModelNotFound",
            )
        if info.state is ModelState.FAILED:
            raise InferenceError(
                f"The model '{name}' could not be loaded: {info.message}",
                code=ErrorCode.FAILED_PRECONDITION,
                reason=info.reason,
            )
        loaded = self._lanes[name].loaded
        if loaded is None or info.state is not ModelState.READY:
            raise EngineUnavailableError(
                f"The model '{name}' is still loading.",
                hint="Try again when it is ready.",
                reason="ModelLoading",
            )
        return self._lanes[name], loaded

    def _admit(self, lane: Lane, rows: int) -> None:
        limit = self._configs[lane.name].max_queue_size
        waiting = lane.queue.rows + self._preparing[lane.name]
        # With nothing in front of it a request is always taken: one with more rows than may wait
        # would be refused for ever.
        if waiting == 0 or waiting + rows <= limit:
            return
        per_row = lane.stats.device_seconds / max(1, lane.stats.rows)
        low, high = _RETRY_AFTER_S
        raise QueueFullError(
            f"The queue of the model '{lane.name}' is full: {waiting} rows wait and at most "
            f"{limit} may.",
            retry_after_s=min(high, max(low, waiting * per_row)),
            hint="Try again a little later, or send fewer requests at once.",
        )

    def _check_deadline(self, request: InferenceRequest) -> None:
        left = self._time_left(request)
        if left is not None and left <= 0:
            raise _expired()

    def _time_left(self, request: InferenceRequest) -> float | None:
        return None if request.deadline is None else request.deadline - self._clock()

    async def _load(self, model: ModelConfig) -> None:
        loop = asyncio.get_running_loop()

        def progress(stage: str, part: float) -> None:
            # Called from the loading thread.
            loop.call_soon_threadsafe(self._set_progress, model.name, stage, part)

        taken = sum(info.memory_bytes for info in self._infos.values())
        loaded = await loop.run_in_executor(
            self._loader,
            lambda: load_model(
                model,
                engine=self._config,
                taken_bytes=taken,
                progress=progress,
                root=self._root,
            ),
        )
        self._set_progress(model.name, "warming", 0.0)
        device = self._devices[model.device]
        try:
            for _ in range(_WARM_RUNS):
                await device.call(lambda: warm(loaded))
        except BaseException:
            loaded.backend.close()
            raise
        lane = self._lanes[model.name]
        lane.loaded = loaded
        if loaded.row_batching == "single":
            lane.queue.limit(1)
        self._infos[model.name] = msgspec.structs.replace(
            loaded.info, state=ModelState.READY, stage="", progress=1.0
        )
        logger.info(
            "model ready",
            extra={
                "model": model.name,
                "variant": loaded.info.variant,
                "precision": loaded.info.precision,
                "random_weights": loaded.info.random_weights,
            },
        )

    def _set_progress(self, name: str, stage: str, part: float) -> None:
        info = self._infos[name]
        if info.state is ModelState.LOADING:
            self._infos[name] = msgspec.structs.replace(info, stage=stage, progress=part)

    def _set_failed(self, name: str, *, reason: str, message: str) -> None:
        self._infos[name] = msgspec.structs.replace(
            self._infos[name], state=ModelState.FAILED, stage="", reason=reason, message=message
        )


def _waiting(model: ModelConfig) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        state=ModelState.LOADING,
        stage="waiting",
        model_type=model.model_type,
        weight=model.weight,
        max_batch_size=model.max_batch_size,
    )


def _queue(model: ModelConfig) -> BatchQueue[PartWork]:
    target = model.latency_target_ms
    return BatchQueue(
        max_batch_size=model.max_batch_size,
        latency_target_s=target / 1e3 if target is not None else None,
    )


def _expired() -> InferenceError:
    return InferenceError(
        "The request was not answered before its deadline.",
        code=ErrorCode.DEADLINE_EXCEEDED,
        reason="DeadlineExceeded",
        hint="Allow more time, or send fewer requests at once.",
    )


def _stopping() -> EngineUnavailableError:
    return EngineUnavailableError("The engine is stopping.", hint="Send the request elsewhere.")
