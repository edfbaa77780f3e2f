"""The engine: requests in, answers out, one device shared by several models.

Why it exists: it is the one place that a request passes through, whether it came over a socket or
from the caller's own process. It checks, keeps deadlines, loads and closes; what happens to a
request in between is its model's lane's business (`deepseek_engine.lanes`). It speaks no network
protocol and must be used from one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import msgspec
from deepseek_api.errors import (
    ConfigurationError,
    DeepseekError,
    EngineUnavailableError,
    PrecisionError,
)

from deepseek_engine.admission import expired, loadable, stopping, waiting_info
from deepseek_engine.batch_lane import BatchLane, Surroundings, Twin
from deepseek_engine.copies import Copies
from deepseek_engine.device import Device
from deepseek_engine.generation.lane import GenerationLane
from deepseek_engine.generation.loaded import LoadedGenerator
from deepseek_engine.generation.requests import GenerationChunk, GenerationRequest
from deepseek_engine.lanes import Lane
from deepseek_engine.loading import Loaded
from deepseek_engine.memories import Memories
from deepseek_engine.messages import (
    AutoPrecision,
    DeviceStats,
    EngineConfig,
    Heartbeat,
    InferenceRequest,
    InferenceResponse,
    ModelConfig,
    ModelInfo,
    ModelState,
    ModelStats,
    ParallelismConfig,
)
from deepseek_engine.pools import Buffers
from deepseek_engine.validation import check_request

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

_PREPARE_THREADS = 2


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
        self._infos = {m.name: waiting_info(m) for m in config.models}
        self._stats = {m.name: ModelStats() for m in config.models}
        self._lanes: dict[str, Lane] = {}
        """Of the models that are loaded."""
        self._configs = {m.name: m for m in config.models}
        self._devices: dict[str, Device] = {}
        self._memories = Memories(config, root=root)
        self._pool = ThreadPoolExecutor(_PREPARE_THREADS, thread_name_prefix="prepare")
        self._copies = Copies(config, clock=clock, root=root)
        self._active = 0
        self._drained = asyncio.Event()
        self._closing = False
        self._changing = asyncio.Lock()

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
                device = self._devices[model.device] = Device(
                    model.device, clock=self._clock, load_window_s=self._config.load_window_s
                )
                device.start()

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
        return self._stats

    def devices(self) -> Mapping[str, DeviceStats]:
        """Load and memory by device, as they are now."""
        return {
            name: DeviceStats(load=device.load(), memory=self._memories.stats(name))
            for name, device in self._devices.items()
        }

    def heartbeat(self) -> Heartbeat:
        """What a front end is told twice a second."""
        for device in self._devices.values():
            device.refresh()
        busy = [d.busy_since for d in self._devices.values() if d.busy_since is not None]
        return Heartbeat(
            sent_at=self._clock(),
            device_busy_since=min(busy, default=None),
            models=dict(self._infos),
            stats=dict(self.stats()),
            devices=dict(self.devices()),
        )

    async def set_auto_precision(self, name: str, policy: AutoPrecision | None) -> None:
        """Run new batches of a model at its lower precision while the device is busy.

        The copy is opened and warmed before any request can meet it; requests go on meanwhile.

        Args:
            name: the model, which must be ready.
            policy: the thresholds; None returns to the model's own precision and frees the copy.

        Raises:
            PrecisionError: the bundle has no lower, faster precision for the device.
            DeviceError: the copy does not fit in memory beside the first one.
            InferenceError: the model is unknown or failed.
            EngineUnavailableError: the model is still loading, or the engine stops.
        """
        async with self._changing:
            lane = self._lookup(name)
            if not isinstance(lane, BatchLane):
                raise PrecisionError(
                    f"The model '{name}' generates; such models have one precision.",
                    reason="PrecisionUnavailable",
                )
            model, loaded, present = self._configs[name], lane.loaded, lane.twin
            device, twin = self._devices[model.device], None
            if policy and present and policy.precision in ("", present.loaded.info.precision):
                twin = self._copies.again(present.loaded, policy)
            elif policy:
                twin = await self._copies.twin(
                    model, loaded, device, policy=policy, taken=self._taken_bytes()
                )
            lane.set_twin(twin)
            self._infos[name] = msgspec.structs.replace(
                self._infos[name], memory_bytes=lane.memory_bytes
            )
            if present is not None and (twin is None or twin.loaded is not present.loaded):
                # On the device's thread, so that a batch that still runs on it ends first.
                await device.call(present.loaded.backend.close)

    async def set_parallelism(self, name: str, parallelism: ParallelismConfig) -> None:
        """Divide a model over processes, or put it together again.

        The divided model is opened and warmed beside the present one, which answers meanwhile and
        is freed then. Answers that a model is generating fail, because its cache is a new one.

        Args:
            name: the model, which must be ready.
            parallelism: over how many processes.

        Raises:
            ConfigurationError: the variant's back end cannot divide it, the model cannot be shared
                by so many, or it has a lower-precision copy.
            PrecisionError: this kind of variant cannot be divided.
            DeviceError: it does not fit in memory beside the present one.
            EngineUnavailableError: the model is still loading, or the engine stops.
        """
        async with self._changing:
            lane = self._lookup(name)
            model = msgspec.structs.replace(self._configs[name], parallelism=parallelism)
            if model.parallelism == self._configs[name].parallelism:
                return
            device = self._devices[model.device]
            if isinstance(lane, BatchLane) and lane.twin is not None:
                raise ConfigurationError(
                    f"The model '{name}' has a lower-precision copy, which is not divided.",
                    hint="Turn the automatic precision off first.",
                )
            opened = await self._copies.open(
                model,
                device,
                taken=self._taken_bytes(),
                buffers=lane.loaded.buffers if isinstance(lane, BatchLane) else Buffers(),
                progress=lambda stage, part: None,
            )
            self._configs[name] = model
            if isinstance(lane, BatchLane) and not isinstance(opened, LoadedGenerator):
                present = lane.replace(opened[0])
                await device.call(present.backend.close)
            else:
                lane.stop()
                self._put(model, opened)
                await device.call(lane.close)

    async def set_memory_pool(self, size_mib: int, *, shared: bool = True) -> None:
        """Give every device that has models a memory pool; models go on answering.

        Args:
            size_mib: MiB of each pool.
            shared: one pool a device for all its models; otherwise one of this size for each.

        Raises:
            ConfigurationError: the size is not a positive whole number of MiB.
            DeviceError: a device has not so much memory.
        """
        async with self._changing:
            await self._memories.configure(size_mib, shared=shared, devices=self._devices)

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Run one request; see `EngineClient.infer`."""
        lane = self._lookup(request.model)
        rows = check_request(request, self._infos[request.model])
        self._check_deadline(request.deadline)
        with self._accepted():
            try:
                # A timer for each request: an expired one is answered when it expires, whether it
                # is being prepared, waits or runs.
                async with asyncio.timeout(self._time_left(request.deadline)):
                    return await lane.infer(request, rows)
            except TimeoutError:
                raise expired() from None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Answer in parts; see `EngineClient.generate`."""
        lane = self._lookup(request.model)
        self._check_deadline(request.deadline)
        with self._accepted():
            # The lane keeps the deadline: a timer here would strike whoever reads.
            async with contextlib.aclosing(lane.generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk

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
        for lane in self._lanes.values():
            lane.stop()
        for device in self._devices.values():
            await device.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._copies.close()
        for lane in self._lanes.values():
            lane.close()

    @contextlib.contextmanager
    def _accepted(self) -> Iterator[None]:
        """Count a request while the block runs, so that closing can wait for it."""
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            if self._active == 0:
                self._drained.set()

    def _lookup(self, name: str) -> Lane:
        if self._closing:
            raise stopping()
        loadable(self._infos.get(name), name, ", ".join(self._infos))
        lane = self._lanes.get(name)
        if lane is None:
            raise EngineUnavailableError(
                f"The model '{name}' is still loading.",
                hint="Try again when it is ready.",
                reason="ModelLoading",
            )
        return lane

    def _check_deadline(self, deadline: float | None) -> None:
        left = self._time_left(deadline)
        if left is not None and left <= 0:
            raise expired()

    def _time_left(self, deadline: float | None) -> float | None:
        return None if deadline is None else deadline - self._clock()

    async def _load(self, model: ModelConfig) -> None:
        loop = asyncio.get_running_loop()

        def progress(stage: str, part: float) -> None:
            # Called from the loading thread.
            loop.call_soon_threadsafe(self._set_progress, model.name, stage, part)

        device = self._devices[model.device]
        buffers = await self._memories.before(model.name, model.device)
        opened = await self._copies.open(
            model, device, taken=self._taken_bytes(), buffers=buffers, progress=progress
        )
        await self._memories.after(model.device, device)
        self._put(model, opened)

    def _put(
        self, model: ModelConfig, opened: tuple[Loaded, Twin | None] | LoadedGenerator
    ) -> None:
        """Let an opened model answer."""
        device = self._devices[model.device]
        lane: Lane
        stats = self._stats[model.name]
        around = Surroundings(clock=self._clock, notify=device.notify, executor=self._pool)
        if isinstance(opened, LoadedGenerator):
            info = opened.info
            lane = GenerationLane(model.name, opened, stats=stats, around=around)
        else:
            loaded, twin = opened
            info = loaded.info
            lane = BatchLane(model, loaded, twin=twin, stats=stats, around=around)
        self._lanes[model.name] = lane
        device.add(lane, weight=model.weight)
        self._infos[model.name] = msgspec.structs.replace(
            info,
            state=ModelState.READY,
            stage="",
            progress=1.0,
            memory_bytes=lane.memory_bytes,
        )
        logger.info(
            "model ready",
            extra={
                "model": model.name,
                "variant": info.variant,
                "precision": info.precision,
                "random_weights": info.random_weights,
            },
        )

    def _taken_bytes(self) -> int:
        models = sum(info.memory_bytes for info in self._infos.values())
        return models + self._memories.host_bytes

    def _set_progress(self, name: str, stage: str, part: float) -> None:
        info = self._infos[name]
        if info.state is ModelState.LOADING:
            self._infos[name] = msgspec.structs.replace(info, stage=stage, progress=part)

    def _set_failed(self, name: str, *, reason: str, message: str) -> None:
        self._infos[name] = msgspec.structs.replace(
            self._infos[name], state=ModelState.FAILED, stage="", reason=reason, message=message
        )
