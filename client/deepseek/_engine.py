"""An engine inside the caller's process: models without a server.

Why it exists: scripts and notebooks want a list of answers for a list of inputs. This is the SDK's
only importer of the engine. The engine lives in one event loop, which runs in a thread of its own,
so that the methods here are plain calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import numpy as np
from deepseek_api.catalog import builtin_catalog
from deepseek_api.errors import (
    BundleError,
    ConfigurationError,
    DeepseekError,
    DeviceError,
    ErrorCode,
    PrecisionError,
)
from deepseek_engine.batching import dynamic_batching
from deepseek_engine.engine import Engine
from deepseek_engine.messages import (
    AutoPrecision,
    DeviceStats,
    EngineConfig,
    InferenceRequest,
    ModelConfig,
    ModelInfo,
    ModelState,
    ParallelismConfig,
    Tensor,
)

from deepseek._calls import (
    IMAGE_INPUT,
    TEXT_INPUT,
    batches,
    image_bytes,
)
from deepseek._engine_answers import result_of, rows_of
from deepseek._engine_generation import generate
from deepseek._generating import Chunk, Sampling
from deepseek._here import require_device
from deepseek._locate import OnEvent, ensure_bundle, ignore, wanted_model
from deepseek._loop import LoopThread
from deepseek._resolve import check_available
from deepseek._tensors import Array, encode
from deepseek._wire import Inputs, Parameter, Result

T = TypeVar("T")
Input = str | bytes | Path | Mapping[str, Array]
"""One sample: a text, an encoded picture, the path of a picture, or arrays by input name."""

# A library stays silent unless its user wants logs; failures are raised.
logging.getLogger("deepseek_engine").addHandler(logging.NullHandler())

NAME = "model"
_QUEUE_ROWS = 1 << 20  # Nobody else shares this engine, so there is nobody to refuse.
_ERRORS: dict[str, type[DeepseekError]] = {
    "PrecisionUnavailable": PrecisionError,
    "InstructionSetUnavailable": PrecisionError,
    "DeviceUnavailable": DeviceError,
    "UnknownDevice": DeviceError,
    "InsufficientMemory": DeviceError,
}


class InferenceEngine:
    """Runs one model in this process.

        with InferenceEngine("minilm") as engine:
            vectors = engine.batch_infer(["a cat", "a kitten"])

    Args:
        model_path: a bundle folder; weights (``.safetensors``, ``.bin``, ``.pt``, ``.pth``) beside
            their ``config.json``; a source such as ``pip://PACKAGE``; or a name of the catalog.
            Weights are converted once, in a process of their own, and kept in the user's cache.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``int8``, ``mixed``, ...
        architecture: what bare weights belong to: ``LIBRARY/NAME`` or a name of the catalog.
        task: what the model does, if nothing else says it.
        max_batch_size: the most samples that are computed together.
        threads: threads of one inference; 0 means what this process may use.
        random_weights: use seeded random weights of the same architecture, to try things out.
        seed: the seed of random weights.
        on_event: told of every step while weights are converted.

    Raises:
        DeepseekError: the device, the format or the precision is not available; the message says
            what to do instead.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        device: str = "cpu",
        precision: str = "auto",
        architecture: str | None = None,
        task: str | None = None,
        max_batch_size: int = 32,
        threads: int = 0,
        random_weights: bool = False,
        seed: int = 0,
        on_event: OnEvent = ignore,
    ) -> None:
        catalog = builtin_catalog()
        entry = catalog.find(str(model_path))
        if entry is not None and not Path(model_path).exists():
            check_available(entry)  # No device helps a model that nothing can run yet.
        require_device(device)
        if max_batch_size < 1:
            raise ConfigurationError(f"max_batch_size is {max_batch_size}; it must be at least 1.")
        wanted = wanted_model(
            model_path,
            catalog=catalog,
            precision=precision,
            device=device,
            architecture=architecture,
            task=task,
            random_weights=random_weights,
            seed=seed,
        )
        bundle = ensure_bundle(wanted, on_event=on_event)
        config = ModelConfig(
            name=NAME,
            bundle=os.fspath(bundle.path),
            digest=wanted.digest,
            precision=precision,
            device=device,
            max_batch_size=max_batch_size,
            max_queue_size=_QUEUE_ROWS,
        )
        self._max_rows = max_batch_size
        self._loop = LoopThread()
        try:
            self._engine = self._loop.call(_start(EngineConfig(models=(config,), threads=threads)))
        except BaseException:
            self._loop.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        if self._loop.running:
            self._loop.call(self._engine.close())
            self._loop.stop()

    @property
    def info(self) -> ModelInfo:
        """Task, chosen variant and precision, inputs and outputs of the model."""
        return self._engine.models()[NAME]

    @property
    def device_stats(self) -> DeviceStats:
        """Load and memory of the device that the model runs on."""
        return next(iter(self._engine.devices().values()))

    def infer(
        self,
        inputs: Inputs,
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Result:
        """Run one request with inputs by name; dimension 0 of every array is the batch."""
        return self._call(self._infer(inputs, tuple(outputs), parameters or {}))

    def batch_infer(self, inputs: Sequence[Input], batch_size: int = 64) -> list[Any]:
        """Answers to a list of samples, in the order of the list.

        Args:
            inputs: texts; encoded pictures or paths of pictures; or arrays by input name, with or
                without a leading batch dimension. All samples are of one kind.
            batch_size: samples handed to the engine at a time. The engine computes at most
                ``max_batch_size`` of them together.

        Returns:
            For each sample: a vector ``[dimensions]`` for a text; a list of ``(label, score)`` for
            a picture; outputs by name for arrays.

        Raises:
            DeepseekError: a sample is not what the model takes; nothing is returned then.
        """
        if batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size}; it must be at least 1.")
        answers: list[Any] = []
        for batch in dynamic_batching(inputs, max_batch_size=batch_size):
            answers += self._call(self._batch(batch))
        return answers

    def generate(
        self, prompt: str | Sequence[int], **sampling: Unpack[Sampling]
    ) -> Iterator[Chunk]:
        """Generate; the answer comes in parts as they are made.

        Closing the iterator ends the answer.

        Args:
            prompt: a text, or token numbers.
            sampling: see :class:`deepseek.Sampling`; for example ``max_tokens=100``.

        Raises:
            InferenceError: the model does not generate, or the prompt or a setting is wrong.
        """
        return generate(self._engine, self._call, NAME, prompt, sampling)

    def set_auto_precision(
        self,
        threshold: float | None = 0.8,
        *,
        resume: float | None = None,
        dwell_s: float = 5.0,
        precision: str = "",
    ) -> None:
        """Run new batches at a lower precision while the device is busy.

        The lower-precision copy comes from the same bundle and is loaded beside the first one now,
        so that no request waits for it. An answer says at which precision it was computed:
        ``result.parameters["precision"]``.

        Args:
            threshold: busy share of the device above which the precision is lowered; None turns it
                off and frees the copy.
            resume: share below which it is raised again, counted as if the model ran at its own
                precision; None: three quarters of the threshold.
            dwell_s: shortest stay at a precision, seconds.
            precision: the lower precision; empty takes the fastest that the bundle has.

        Raises:
            ConfigurationError: a number is out of its range.
            PrecisionError: the bundle has no lower precision, or none that is faster.
            DeviceError: the copy does not fit in memory beside the first one.
        """
        policy = None
        if threshold is not None:
            policy = AutoPrecision(
                threshold=threshold, resume=resume, dwell_s=dwell_s, precision=precision
            )
        self._call(self._engine.set_auto_precision(NAME, policy))

    def enable_pipeline_parallel(self, num_stages: int = 2) -> None:
        """Divide the model into stages, each in a process of its own with some of the layers.

        This process is the first stage. Batches are cut, so that stages work at the same time. On
        NVIDIA GPUs stage n computes on GPU n. A lost stage fails the batch that runs, with
        UNAVAILABLE, and all stages are started again.

        Args:
            num_stages: how many; 1 puts the model together again.

        Raises:
            ConfigurationError: the number is out of range or above the model's layers, or the
                model's variant is a graph for ONNX Runtime, which cannot be divided.
            PrecisionError: the model's architecture or precision cannot be divided.
            DeviceError: the stages do not fit in memory beside the present model.
        """
        self._call(self._engine.set_parallelism(NAME, ParallelismConfig(pipeline=num_stages)))

    def set_memory_pool(self, size: int = 2048, *, shared: bool = True) -> None:
        """Take memory for batches once, instead of from the system for every batch.

        On the processor the pool is a block whose pages exist before they are needed; the large
        inputs of batches are put together in it. On a GPU it is what the allocator may take, and
        takes now.

        Args:
            size: MiB; it must be free on the device.
            shared: one pool for all models of the device, or one of this size for each. An engine
                has one model, so that on the processor both are the same.

        Raises:
            ConfigurationError: the size is not a positive whole number.
            DeviceError: the device has not so much memory; nothing changes then.
        """
        self._call(self._engine.set_memory_pool(size, shared=shared))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if not self._loop.running:
            coroutine.close()
            raise ConfigurationError("The engine is closed.", hint="Make a new InferenceEngine.")
        return self._loop.call(coroutine)

    async def _batch(self, samples: list[Input]) -> list[Any]:
        if all(isinstance(sample, Mapping) for sample in samples):
            calls = [self._arrays(sample) for sample in samples]  # type: ignore[arg-type]
            return list(await _together(calls))
        takes = self.info.inputs[0].name if self.info.inputs else ""
        if takes == TEXT_INPUT:
            values: list[Any] = [_text(sample) for sample in samples]
        elif takes == IMAGE_INPUT:
            values = [image_bytes(sample) for sample in samples]  # type: ignore[arg-type]
        else:
            raise _wrong_sample(f"arrays by name ({', '.join(s.name for s in self.info.inputs)})")
        rows = [self._infer({takes: part}, (), {}) for part in batches(values, self._max_rows)]
        return [answer for result in await _together(rows) for answer in rows_of(result)]

    async def _arrays(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        arrays = {name: np.asarray(value) for name, value in sample.items()}
        ranks = {spec.name: len(spec.shape) for spec in self._all_inputs()}
        single = all(array.ndim == ranks.get(name, 0) - 1 for name, array in arrays.items())
        given = {name: array[None] for name, array in arrays.items()} if single else arrays
        result = await self._infer(given, (), {})
        return {name: array[0] if single else array for name, array in result.outputs.items()}

    def _all_inputs(self) -> list[Any]:
        info = self.info
        # The inputs that metadata shows win over alternatives of the same name.
        return [spec for group in (*info.alternative_inputs, info.inputs) for spec in group]

    async def _infer(
        self, inputs: Inputs, outputs: tuple[str, ...], parameters: Mapping[str, Parameter]
    ) -> Result:
        tensors = tuple(Tensor(name, *encode(name, value)) for name, value in inputs.items())
        request = InferenceRequest(
            model=NAME, inputs=tensors, outputs=outputs, parameters=parameters
        )
        return result_of(await self._engine.infer(request), NAME)


async def _start(config: EngineConfig) -> Engine:
    engine = Engine(config)
    engine.start()
    await engine.load()
    info = engine.models()[NAME]
    if info.state is ModelState.FAILED:
        await engine.close()
        kind = _ERRORS.get(info.reason, BundleError)
        raise kind(info.message, code=ErrorCode.FAILED_PRECONDITION, reason=info.reason)
    return engine


async def _together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run calls side by side; the first failure withdraws the others."""
    if len(calls) == 1:
        return [await calls[0]]  # Nobody to run beside: tasks would only cost turns of the loop.
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _text(sample: Any) -> str:
    if isinstance(sample, str):
        return sample
    raise _wrong_sample("texts")


def _wrong_sample(expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"The model takes {expected}, and one of the samples is something else.",
        hint="All samples of a list must be of the kind that the model takes.",
        reason="InvalidInput",
    )
