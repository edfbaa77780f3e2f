"""Running one batch on the device's thread.

Why it exists: one bad request must not fail the requests that happen to share its batch. A batch
that fails is cut in halves until the guilty request is alone. It runs on the device's thread and
must not touch the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from deepseek_api.errors import DeepseekError, ErrorCode, InferenceError

from deepseek_engine.backends import Backend
from deepseek_engine.codec import Array
from deepseek_engine.loading import Loaded
from deepseek_engine.messages import InferenceRequest, Tensor
from deepseek_engine.tasks.base import Part, Task
from deepseek_engine.validation import check_request

__all__ = ["Outcome", "run_parts", "warm"]

logger = logging.getLogger(__name__)

Outcome = Mapping[str, Array] | DeepseekError
"""The rows of a part, or why it failed."""


@dataclass(frozen=True, slots=True)
class _Model:
    backend: Backend
    task: Task
    outputs: Sequence[str]


def run_parts(
    backend: Backend, task: Task, parts: Sequence[Part], *, outputs: Sequence[str]
) -> list[Outcome]:
    """Run parts as one batch; when it fails, in halves.

    Args:
        backend: the opened variant.
        task: puts the parts together.
        parts: at least one, all of one bucket.
        outputs: names of the graph's outputs that are needed.

    Returns:
        One outcome for each part, in order; it never raises for a request's fault.
    """
    return _run(_Model(backend, task, outputs), parts)


def warm(loaded: Loaded) -> None:
    """Answer the model's own probe: every step of a real request, on the device's thread."""
    tensors = tuple(Tensor(t.name, t.datatype, t.shape, t.data) for t in loaded.info.probe)
    request = InferenceRequest(model=loaded.info.name, inputs=tensors)
    check_request(request, loaded.info)
    prepared = loaded.task.prepare(request)
    for part in prepared.parts:
        inputs = loaded.task.collate([part])
        outputs = loaded.backend.run(inputs, prepared.graph_outputs)
        loaded.task.finish(prepared, loaded.task.reduce(inputs, outputs))


def _run(model: _Model, parts: Sequence[Part]) -> list[Outcome]:
    try:
        return list(_attempt(model, parts))
    # The runtime's own errors are InferenceError; the rest is a defect or memory running out.
    # Either way only the request that causes it may fail, and the thread must live on.
    except Exception as error:
        if len(parts) > 1:
            middle = len(parts) // 2
            return [*_run(model, parts[:middle]), *_run(model, parts[middle:])]
        return [_as_error(error)]


def _attempt(model: _Model, parts: Sequence[Part]) -> list[Mapping[str, Array]]:
    inputs = model.task.collate(parts)
    arrays = model.task.reduce(inputs, model.backend.run(inputs, model.outputs))
    total = sum(len(part.rows) for part in parts)
    for name, array in arrays.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise InferenceError(
                f"The model's output '{name}' does not have one row for each row of the input.",
                code=ErrorCode.INTERNAL,
                hint="Its graph has no batch dimension; prepare the bundle again.",
                reason="OutputShape",
            )
    if len(parts) == 1:
        return [arrays]
    ends = np.cumsum([len(part.rows) for part in parts])[:-1]
    pieces = {name: np.split(array, ends) for name, array in arrays.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(len(parts))]


def _as_error(error: Exception) -> DeepseekError:
    if isinstance(error, DeepseekError):
        return error
    if isinstance(error, MemoryError):
        return InferenceError(
            "There is not enough memory to compute this request.",
            code=ErrorCode.RESOURCE_EXHAUSTED,
            hint="Send fewer or smaller rows at once.",
            reason="OutOfMemory",
        )
    logger.exception("a batch failed", exc_info=error)
    return InferenceError(
        "The model failed to compute this request.",
        code=ErrorCode.INTERNAL,
        hint="The log of the engine has the cause.",
    )
