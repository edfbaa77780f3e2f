"""From a bundle on disk to a model that can answer.

Why it exists: loading has many steps that can fail for reasons that a user can mend, and each must
be told by name. It runs in a thread of its own; warming up is not its business, because only the
device's thread may run a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from deepseek_api.errors import PrecisionError
from deepseek_api.manifest import Variant, choose_variant
from deepseek_api.vocabulary import InstructionSet, Precision

from deepseek_engine import hardware
from deepseek_engine.backends import Backend, BackendOptions, open_backend
from deepseek_engine.backends.devices import parse_device
from deepseek_engine.bundles import OpenBundle, open_bundle
from deepseek_engine.describing import described
from deepseek_engine.generation.loaded import LoadedGenerator, load_generator
from deepseek_engine.generation.opened import TASK
from deepseek_engine.memory import check_memory, estimate_memory
from deepseek_engine.messages import EngineConfig, ModelConfig, ModelInfo
from deepseek_engine.pools import Buffers
from deepseek_engine.precision import choose_twin
from deepseek_engine.tasks import Task, TaskContext, create_task

__all__ = ["Loaded", "Progress", "device_sets", "load_model", "load_twin", "select_variant"]

Progress = Callable[[str, float], None]
"""Called with the stage (verifying, opening) and the part of it that is done, 0 to 1."""

_ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model that can run."""

    info: ModelInfo
    backend: Backend
    task: Task
    row_batching: str
    """See `TaskContext.row_batching`."""
    bundle: OpenBundle
    variant: Variant
    buffers: Buffers
    """Where its large arrays come from."""


def load_model(
    model: ModelConfig,
    *,
    engine: EngineConfig,
    taken_bytes: int,
    progress: Progress,
    buffers: Buffers | None = None,
    root: Path = _ROOT,
) -> Loaded | LoadedGenerator:
    """Check and open a bundle.

    Args:
        model: what to load.
        engine: threads, instruction set and memory limit.
        taken_bytes: estimated memory of the models that were loaded before.
        progress: is told how far loading is.
        buffers: where large arrays come from; None: the C library.
        root: where ``/proc`` and ``/sys`` are.

    Raises:
        BundleError: the bundle is missing, damaged or of an unknown kind.
        PrecisionError: it has no variant for the precision or the processor.
        DeviceError: the device is not available, or the model does not fit in memory.
    """
    parse_device(model.device)
    bundle = open_bundle(model.bundle, model.digest)
    variant = select_variant(bundle, model, instruction_set=engine.instruction_set, root=root)
    wanted = _Wanted(model, bundle, variant, buffers or Buffers())
    if bundle.manifest.task == TASK:
        options = _verified(
            wanted, engine=engine, taken_bytes=taken_bytes, progress=progress, root=root
        )
        return load_generator(model, bundle, variant, options)
    return _open(
        wanted,
        engine=engine,
        taken_bytes=taken_bytes,
        progress=progress,
        root=root,
    )


def load_twin(
    model: ModelConfig,
    loaded: Loaded,
    *,
    precision: str,
    engine: EngineConfig,
    taken_bytes: int,
    root: Path = _ROOT,
) -> Loaded:
    """Open the lower-precision copy of a model that is loaded already.

    Args:
        model: the model's configuration.
        loaded: the copy that is there.
        precision: of the new copy; empty chooses one (see `choose_twin`).
        engine: threads, instruction set and memory limit.
        taken_bytes: estimated memory of everything that is loaded, the first copy included.
        root: where ``/proc`` and ``/sys`` are.

    Raises:
        BundleError: the copy's files are damaged.
        PrecisionError: there is no lower precision, or its graph takes other tensors or batches.
        DeviceError: it does not fit in memory beside the first copy.
    """
    bundle = loaded.bundle
    sets = device_sets(model.device, engine.instruction_set, root=root)
    variant = choose_twin(bundle.manifest, loaded.variant, sets, wanted=precision)
    twin = _open(
        _Wanted(model, bundle, variant, loaded.buffers, copy=True),
        engine=engine,
        taken_bytes=taken_bytes,
        progress=lambda stage, part: None,
        root=root,
    )
    if _border(twin) != _border(loaded):
        twin.backend.close()
        raise PrecisionError(
            f"The variants '{loaded.variant.id}' and '{variant.id}' of the model '{model.name}' "
            "take or give different tensors, so that requests cannot move between them.",
            hint="Prepare the bundle again with this release.",
            reason="DifferentTensors",
        )
    return twin


@dataclass(frozen=True, slots=True)
class _Wanted:
    model: ModelConfig
    bundle: OpenBundle
    variant: Variant
    buffers: Buffers
    copy: bool = False


def _verified(
    wanted: _Wanted, *, engine: EngineConfig, taken_bytes: int, progress: Progress, root: Path
) -> BackendOptions:
    """Check memory and files of what is about to be opened, and say how it executes."""
    model, bundle, variant = wanted.model, wanted.bundle, wanted.variant
    check_memory(
        name=model.name,
        need=estimate_memory(variant),
        taken=taken_bytes,
        memory=hardware.detect_memory(root=root),
        limit_bytes=engine.memory_limit_bytes,
        copy=variant.id if wanted.copy else "",
    )
    progress("verifying", 0.0)
    bundle.verify(variant, progress=lambda part: progress("verifying", part))
    progress("opening", 0.0)
    threads = engine.threads or hardware.usable_threads(root=root)
    return BackendOptions(
        device=model.device,
        threads=threads,
        max_batch_size=model.max_batch_size,
        parallelism=model.parallelism,
        settings=engine.options,
    )


def _open(
    wanted: _Wanted, *, engine: EngineConfig, taken_bytes: int, progress: Progress, root: Path
) -> Loaded:
    model, bundle, variant = wanted.model, wanted.bundle, wanted.variant
    options = _verified(
        wanted, engine=engine, taken_bytes=taken_bytes, progress=progress, root=root
    )
    backend = open_backend(bundle, variant, options)
    try:
        task = create_task(
            bundle.manifest.task,
            TaskContext(
                bundle=bundle,
                variant=variant,
                graph_inputs=backend.inputs,
                graph_outputs=backend.outputs,
                row_batching=variant.row_batching,
                empty=wanted.buffers.empty,
            ),
        )
    except BaseException:
        backend.close()
        raise
    return Loaded(
        info=_describe(model, bundle, variant, task),
        backend=backend,
        task=task,
        row_batching=variant.row_batching,
        bundle=bundle,
        variant=variant,
        buffers=wanted.buffers,
    )


def _border(loaded: Loaded) -> tuple[object, ...]:
    """What a prepared request depends on: the graph's tensors and how rows share a batch."""
    backend = loaded.backend
    tensors = [
        {(spec.name, spec.datatype) for spec in s} for s in (backend.inputs, backend.outputs)
    ]
    return (*tensors, loaded.row_batching)


def select_variant(
    bundle: OpenBundle, model: ModelConfig, *, instruction_set: str = "", root: Path = _ROOT
) -> Variant:
    """The variant of a bundle for a precision and a processor.

    Raises:
        PrecisionError: there is none, and what there is.
    """
    try:
        precision = Precision(model.precision)
    except ValueError:
        raise PrecisionError(
            f"'{model.precision}' is not a precision.",
            hint=f"Use one of: {', '.join(Precision)}.",
        ) from None
    sets = device_sets(model.device, instruction_set, root=root)
    return choose_variant(bundle.manifest, precision, sets)


def device_sets(
    device: str, instruction_set: str = "", *, root: Path = _ROOT
) -> tuple[InstructionSet, ...]:
    """What the variants of a device are selected by, best first.

    Raises:
        ConfigurationError: the instruction set that overrides the processor's is not one.
    """
    if parse_device(device)[0] == "cuda":
        return (InstructionSet.CUDA,)
    return hardware.instruction_sets(instruction_set, root=root)


def _describe(model: ModelConfig, bundle: OpenBundle, variant: Variant, task: Task) -> ModelInfo:
    interface = task.interface
    return msgspec.structs.replace(
        described(model, bundle, variant),
        max_batch_size=model.max_batch_size,
        inputs=interface.inputs,
        alternative_inputs=interface.alternative_inputs,
        outputs=interface.outputs,
        default_outputs=interface.default_outputs,
        probe=interface.probe,
    )
