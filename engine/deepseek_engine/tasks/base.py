"""What a task is: the meaning of a model's tensors.

Why it exists: a graph knows numbers, a caller sends text and pictures. A task describes what may be
sent, turns a checked request into arrays, cut into parts that may share a batch with parts of
other requests, and turns the graph's rows back into the outputs that were asked for. A task holds
no queue and no device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from deepseek_api.manifest import Variant

from deepseek_engine.bundles import OpenBundle
from deepseek_engine.codec import Array
from deepseek_engine.messages import InferenceRequest, Tensor, TensorSpec, WireTensor

__all__ = [
    "Empty",
    "Interface",
    "Part",
    "Prepared",
    "Task",
    "TaskContext",
    "TaskFactory",
    "stack",
]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...]
    """The inputs that metadata shows."""
    alternative_inputs: tuple[tuple[TensorSpec, ...], ...] = ()
    """Other complete sets of inputs."""
    outputs: tuple[TensorSpec, ...]
    """Every output that may be requested."""
    default_outputs: tuple[str, ...]
    """What a request without a choice gets."""
    probe: tuple[WireTensor, ...]
    """A small valid request of one row."""


@dataclass(slots=True, eq=False)
class Part:
    """Rows of one request that go into the same batch."""

    bucket: Hashable
    """Only parts of one bucket may share a batch."""
    rows: tuple[int, ...]
    """Which rows of the request these are."""
    arrays: Mapping[str, Array]
    """Inputs of the graph; dimension 0 is the rows."""


@dataclass(slots=True, eq=False)
class Prepared:
    """A request, ready for the graph."""

    rows: int
    parts: Sequence[Part]
    outputs: tuple[str, ...]
    """Names of the outputs that the caller gets, in order."""
    graph_outputs: tuple[str, ...]
    """Names of the graph's outputs that are needed for them."""
    options: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    """Checked parameters of the request that the task knows."""


class Task(Protocol):
    """One task of one opened model. Its methods are called from several threads."""

    @property
    def interface(self) -> Interface:
        """What the model takes and gives."""
        ...

    def is_heavy(self, request: InferenceRequest) -> bool:
        """Whether preparing the request takes long enough to be worth another thread."""
        ...

    def prepare(self, request: InferenceRequest) -> Prepared:
        """Turn a request, whose names, types and shapes were checked, into arrays.

        Raises:
            InferenceError: INVALID_ARGUMENT, naming the row or the parameter.
        """
        ...

    def collate(self, parts: Sequence[Part]) -> Mapping[str, Array]:
        """The arrays of one batch."""
        ...

    def reduce(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        """Shrink a batch's outputs where that needs the whole batch, such as pooling over tokens.

        Dimension 0 stays the rows of the batch.
        """
        ...

    def finish(self, prepared: Prepared, arrays: Mapping[str, Array]) -> tuple[Tensor, ...]:
        """The outputs of a request, from the graph's rows in the request's order."""
        ...


Empty = Callable[[tuple[int, ...], np.dtype[Any]], Array]
"""Makes an array of a shape and a type, with undefined content."""


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """What a task is made from."""

    bundle: OpenBundle
    variant: Variant
    graph_inputs: tuple[TensorSpec, ...]
    graph_outputs: tuple[TensorSpec, ...]
    row_batching: str = "padded"
    """``padded``: rows of similar length share a batch; ``equal``: rows of the same length only;
    ``single``: each row runs alone, because this variant's answers depend on the batch."""
    empty: Empty = np.empty
    """Makes the large arrays in which a batch is put together."""


TaskFactory = Callable[[TaskContext], Task]
"""Makes a task; raises BundleError when the bundle's description does not fit the task."""


def stack(parts: Sequence[Part], empty: Empty = np.empty) -> Mapping[str, Array]:
    """The arrays of parts one after the other; a single part's arrays are not copied."""
    if len(parts) == 1:
        return parts[0].arrays
    names = parts[0].arrays.keys()
    return {name: _joined([part.arrays[name] for part in parts], empty) for name in names}


def _joined(arrays: Sequence[Array], empty: Empty) -> Array:
    first = arrays[0]
    # Objects (BYTES) are references, which only NumPy's own memory may hold.
    if first.dtype.hasobject or any(array.dtype != first.dtype for array in arrays):
        return np.concatenate(arrays)
    rows = sum(len(array) for array in arrays)
    whole = empty((rows, *first.shape[1:]), first.dtype)
    np.concatenate(arrays, out=whole)
    return whole
