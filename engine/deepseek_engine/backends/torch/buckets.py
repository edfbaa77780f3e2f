"""Shapes that a captured graph exists for, and how a batch is made to fit one.

Why it exists: a graph replays one shape. Batches have any number of rows and texts any number of
tokens, so a batch is padded up to the next shape of a short list and its answer is cut back. It
knows NumPy arrays and no device; it decides nothing about capturing.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepseek_engine.codec import NUMPY_TYPES, Array
from deepseek_engine.messages import TensorSpec

__all__ = ["Bucket", "Buckets", "batch_sizes", "lengths"]

MASK = "attention_mask"
"""The input that tells real tokens from padding; without it a length cannot be padded."""
_FIRST_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Bucket:
    """One shape."""

    rows: int
    length: int
    """Tokens of a row; 0 for models without a length."""

    def __str__(self) -> str:
        return f"{self.rows}x{self.length}" if self.length else str(self.rows)


def batch_sizes(largest: int) -> tuple[int, ...]:
    """1, 2, 4, 8, 12, 16, 24, 32, ... up to ``largest``, which is always one of them.

    Steps of at most a half from 8 rows on: padding to the next one wastes at most a third.
    """
    sizes, size = {largest}, 1
    while size < largest:
        sizes.add(size)
        if size >= 8 and size + size // 2 < largest:
            sizes.add(size + size // 2)
        size *= 2
    return tuple(sorted(sizes))


def lengths(longest: int) -> tuple[int, ...]:
    """16, 24, 32, 48, 64, 96, 128, ... up to ``longest``, which is always one of them."""
    return tuple(size for size in batch_sizes(longest) if size >= min(longest, _FIRST_LENGTH))


class Buckets:
    """The list of shapes of one model."""

    def __init__(
        self, inputs: Sequence[TensorSpec], *, sizes: Sequence[int], lengths: Sequence[int] = ()
    ) -> None:
        """Make the list.

        Args:
            inputs: of the module; -1 is a dimension that varies, dimension 0 the batch.
            sizes: rows of a batch, ascending.
            lengths: tokens of a row, ascending; used where the model has a length and a mask.
        """
        self._inputs = {spec.name: spec for spec in inputs}
        self._sizes = list(sizes)
        self._has_length = any(-1 in spec.shape[1:] for spec in inputs)
        self._lengths = list(lengths) if self._has_length and MASK in self._inputs else []
        # Only a length in dimension 1 is understood: of other dimensions nothing is known.
        self._unknown = any(-1 in spec.shape[2:] for spec in inputs)

    def __iter__(self) -> Iterator[Bucket]:
        """All shapes; none when they cannot be known beforehand."""
        if self._unknown or (self._has_length and not self._lengths):
            return iter(())
        pairs = itertools.product(self._sizes, self._lengths or [0])
        return (Bucket(*pair) for pair in pairs)

    def fit(self, inputs: Mapping[str, Array]) -> Bucket | None:
        """The smallest shape that holds a batch; None when none does."""
        if self._unknown or (self._has_length and not self._lengths):
            return None
        first = next(iter(inputs.values()))
        rows = _at_least(self._sizes, len(first))
        if rows is None or not self._has_length:
            return None if rows is None else Bucket(rows, 0)
        length = _at_least(self._lengths, inputs[MASK].shape[1])
        return None if length is None else Bucket(rows, length)

    def shape(self, name: str, bucket: Bucket) -> tuple[int, ...]:
        """Shape of an input in a bucket."""
        _, *rest = self._inputs[name].shape
        return (bucket.rows, *(bucket.length if size < 0 else size for size in rest))

    def example(self, bucket: Bucket) -> dict[str, Array]:
        """Inputs of a bucket that hold padding only."""
        arrays = {
            name: np.zeros(self.shape(name, bucket), NUMPY_TYPES[spec.datatype])
            for name, spec in self._inputs.items()
        }
        _unmask(arrays, 0)
        return arrays

    def pad(self, inputs: Mapping[str, Array], into: Mapping[str, Array]) -> None:
        """Write a batch into the arrays of its bucket; everything around it becomes padding."""
        rows = 0
        for name, array in inputs.items():
            target, rows = into[name], len(array)
            if array.ndim > 1 and array.shape[1] < target.shape[1]:
                target[:rows, array.shape[1] :] = 0
                target[:rows, : array.shape[1]] = array
            else:
                target[:rows] = array
            target[rows:] = 0
        _unmask(into, rows)

    def cut(
        self, outputs: Mapping[str, Array], specs: Sequence[TensorSpec], inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The batch's own part of a bucket's outputs.

        Args:
            outputs: of the bucket.
            specs: of the module's outputs; a -1 in dimension 1 is the length.
            inputs: the batch before it was padded.
        """
        rows = len(next(iter(inputs.values())))
        found = {}
        for spec in specs:
            if spec.name in outputs:
                array = outputs[spec.name][:rows]
                if self._has_length and len(spec.shape) > 1 and spec.shape[1] < 0:
                    array = array[:, : inputs[MASK].shape[1]]
                found[spec.name] = array
        return found


def _unmask(arrays: Mapping[str, Array], rows: int) -> None:
    # A row without any token divides by zero in attention. Rows do not see each other, but a NaN
    # would be found by everything that looks for one.
    if MASK in arrays:
        arrays[MASK][rows:, 0] = 1


def _at_least(values: Sequence[int], wanted: int) -> int | None:
    index = bisect.bisect_left(values, wanted)
    return values[index] if index < len(values) else None
