"""Opening and warming the copies of a model, away from the event loop.

Why it exists: verifying and opening a bundle takes seconds and must not hold up requests, and only
the device's thread may run a model. This module knows both threads; which models there are and
what state they are in is the engine's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deepseek_api.errors import DeepseekError, PrecisionError

from deepseek_engine.batch_lane import Twin
from deepseek_engine.device import Device
from deepseek_engine.execution import warm
from deepseek_engine.generation.loaded import LoadedGenerator, warm_generator
from deepseek_engine.loading import Loaded, Progress, load_model, load_twin
from deepseek_engine.messages import AutoPrecision, EngineConfig, ModelConfig
from deepseek_engine.pools import Buffers
from deepseek_engine.precision import PrecisionSwitch

__all__ = ["Copies"]

logger = logging.getLogger(__name__)

_WARM_RUNS = 2


class Copies:
    """Opens copies one after the other, in a thread of its own."""

    def __init__(self, config: EngineConfig, *, clock: Callable[[], float], root: Path) -> None:
        self._config = config
        self._clock = clock
        self._root = root
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")

    def close(self) -> None:
        """Take no more work; what is being opened is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def open(
        self,
        model: ModelConfig,
        device: Device,
        *,
        taken: int,
        buffers: Buffers,
        progress: Progress,
    ) -> tuple[Loaded, Twin | None] | LoadedGenerator:
        """Open and warm a model, and its lower-precision copy if its configuration wants one.

        A model that generates has no copies.

        Args:
            model: what to load.
            device: that it will run on.
            taken: estimated bytes of what is loaded already.
            buffers: where its large arrays come from.
            progress: is told how far loading is, from the loading thread.

        Raises:
            DeepseekError: see `load_model` and `load_twin`; nothing stays open then.
        """
        loaded = await asyncio.get_running_loop().run_in_executor(
            self._thread,
            lambda: load_model(
                model,
                engine=self._config,
                taken_bytes=taken,
                progress=progress,
                buffers=buffers,
                root=self._root,
            ),
        )
        progress("warming", 0.0)
        if isinstance(loaded, LoadedGenerator):
            return await self._generating(model, loaded, device)
        await self._warm(device, loaded)
        if model.auto_precision is None:
            return loaded, None
        return loaded, await self._configured(model, loaded, device, taken=taken)

    async def twin(
        self,
        model: ModelConfig,
        loaded: Loaded,
        device: Device,
        *,
        policy: AutoPrecision,
        taken: int,
    ) -> Twin:
        """Open and warm the lower-precision copy of a model that is loaded.

        Raises:
            DeepseekError: see `load_twin`.
        """
        copy = await asyncio.get_running_loop().run_in_executor(
            self._thread,
            lambda: load_twin(
                model,
                loaded,
                precision=policy.precision,
                engine=self._config,
                taken_bytes=taken,
                root=self._root,
            ),
        )
        await self._warm(device, copy)
        return self.again(copy, policy)

    def again(self, copy: Loaded, policy: AutoPrecision) -> Twin:
        """A copy that is open already, under other thresholds."""
        return Twin(copy, PrecisionSwitch(policy, now=self._clock()))

    async def _configured(
        self, model: ModelConfig, loaded: Loaded, device: Device, *, taken: int
    ) -> Twin | None:
        policy = model.auto_precision
        assert policy is not None
        taken += loaded.info.memory_bytes
        try:
            return await self.twin(model, loaded, device, policy=policy, taken=taken)
        except DeepseekError as error:
            if policy.required:
                loaded.backend.close()
                raise
            logger.warning(
                "the precision stays as it is",
                extra={"model": model.name, "reason": error.reason, "cause": error.message},
            )
            return None
        except BaseException:
            loaded.backend.close()
            raise

    async def _generating(
        self, model: ModelConfig, loaded: LoadedGenerator, device: Device
    ) -> LoadedGenerator:
        try:
            if model.auto_precision is not None and model.auto_precision.required:
                raise PrecisionError(
                    f"The model '{model.name}' generates; such models have one precision.",
                    hint="Leave the automatic precision out, or let it be optional.",
                    reason="PrecisionUnavailable",
                )
            await warm_generator(loaded, device.call)
        except BaseException:
            loaded.opened.generator.close()
            raise
        return loaded

    async def _warm(self, device: Device, loaded: Loaded) -> None:
        try:
            for _ in range(_WARM_RUNS):
                await device.call(lambda: warm(loaded))
        except BaseException:
            loaded.backend.close()
            raise
