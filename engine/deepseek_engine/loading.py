"""From a bundle on disk to a model that can answer.

Why it exists: loading has many steps that can fail for reasons that a user can mend, and each must
be told by name. It runs in a thread of its own; warming up is not its business, because only the
device's thread may run a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepseek_api.errors import PrecisionError
from deepseek_api.manifest import Variant, choose_variant
from deepseek_api.vocabulary import Precision

from deepseek_engine import hardware
from deepseek_engine.backends import Backend, BackendOptions, open_backend
from deepseek_engine.backends.devices import parse_device
from deepseek_engine.bundles import OpenBundle, open_bundle
from deepseek_engine.memory import check_memory, estimate_memory
from deepseek_engine.messages import EngineConfig, ModelConfig, ModelInfo, ModelState
from deepseek_engine.tasks import Task, TaskContext, create_task

__all__ = ["Loaded", "Progress", "load_model", "select_variant"]

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


def load_model(
    model: ModelConfig,
    *,
    engine: EngineConfig,
    taken_bytes: int,
    progress: Progress,
    root: Path = _ROOT,
) -> Loaded:
    """Check and open a bundle.

    Args:
        model: what to load.
        engine: threads, instruction set and memory limit.
        taken_bytes: estimated memory of the models that were loaded before.
        progress: is told how far loading is.
        root: where ``/proc`` and ``/sys`` are.

    Raises:
        BundleError: the bundle is missing, damaged or of an unknown kind.
        PrecisionError: it has no variant for the precision or the processor.
        DeviceError: the device is not available, or the model does not fit in memory.
    """
    parse_device(model.device)
    bundle = open_bundle(model.bundle, model.digest)
    variant = select_variant(bundle, model, instruction_set=engine.instruction_set, root=root)
    check_memory(
        name=model.name,
        need=estimate_memory(variant),
        taken=taken_bytes,
        memory=hardware.detect_memory(root=root),
        limit_bytes=engine.memory_limit_bytes,
    )
    progress("verifying", 0.0)
    bundle.verify(variant, progress=lambda part: progress("verifying", part))
    progress("opening", 0.0)
    threads = engine.threads or hardware.usable_threads(root=root)
    options = BackendOptions(device=model.device, threads=threads)
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
    )


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
    sets = hardware.instruction_sets(instruction_set, root=root)
    return choose_variant(bundle.manifest, precision, sets)


def _describe(model: ModelConfig, bundle: OpenBundle, variant: Variant, task: Task) -> ModelInfo:
    manifest, interface = bundle.manifest, task.interface
    return ModelInfo(
        name=model.name,
        state=ModelState.LOADING,
        task=manifest.task,
        model_type=model.model_type or manifest.model_type,
        backend=variant.backend,
        precision=variant.precision,
        variant=variant.id,
        digest=bundle.digest,
        random_weights=manifest.random_weights,
        max_batch_size=model.max_batch_size,
        weight=model.weight,
        memory_bytes=estimate_memory(variant),
        inputs=interface.inputs,
        alternative_inputs=interface.alternative_inputs,
        outputs=interface.outputs,
        default_outputs=interface.default_outputs,
        probe=interface.probe,
        stage="opening",
        progress=1.0,
    )
