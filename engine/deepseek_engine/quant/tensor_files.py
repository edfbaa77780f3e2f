"""Reading and writing safetensors files in pieces, so that memory does not grow with the file.

Why it exists: the safetensors library maps a file into memory, which counts as memory of the
process as it is read, and writes only what is held in memory as a whole. A checkpoint of many
gigabytes is quantized row by row instead. The format: eight bytes length, a JSON header with data
type, shape and offsets of every tensor, then the bytes.

Imports torch; import it only where a torch variant is opened or made.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from deepseek_api.errors import SourceError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Data types of tensors as the header names them."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LARGEST_HEADER = 100 << 20
"""Bytes; the limit of the safetensors library."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Data type and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first dimension."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class TensorFile:
    """An open safetensors file; tensors are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Open a file and check its header.

        Raises:
            SourceError: it cannot be opened, or the header contradicts the file.
        """
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise SourceError(
                f"'{path.name}' cannot be opened: {error.strerror}.",
                hint="Check the path and its permissions.",
                reason="WeightsNotFound",
            ) from error
        try:
            self.specs, self._offsets = _read_header(self._file.fileno(), path.name)
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """A tensor, or its rows from ``first`` to before ``last``, as a copy in memory."""
        spec = self.specs[name]
        offset, shape = self._offsets[name], spec.shape
        if shape and (first or last is not None):
            shape = (min(last if last is not None else shape[0], shape[0]) - first, *shape[1:])
            offset += first * spec.row_bytes
        tensor = torch.empty(shape, dtype=spec.dtype)
        view = memoryview(_bytes_of(tensor))
        done = 0
        while done < len(view):
            count = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            if count == 0:
                raise _damaged(self.path.name, f"it ends inside the tensor '{name}'")
            done += count
        return tensor

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class TensorWriter:
    """A safetensors file whose tensors are known beforehand and written piece by piece."""

    def __init__(
        self, path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Create the file with its header; its data are holes until they are written."""
        self._specs = dict(specs)
        self._missing = {name: spec.nbytes for name, spec in self._specs.items()}
        self._offsets: dict[str, int] = {}
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        end = 0
        for name, spec in self._specs.items():
            self._offsets[name] = end
            header[name] = {
                "dtype": _NAMES[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [end, end + spec.nbytes],
            }
            end += spec.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._start = 8 + len(text)
        self._file = path.open("wb", buffering=0)
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._start + end)

    def write(self, name: str, tensor: torch.Tensor, *, first: int = 0) -> None:
        """Write a tensor, or rows of it from row ``first`` on."""
        spec = self._specs[name]
        if tensor.dtype != spec.dtype or tensor.shape[1:] != spec.shape[1:]:
            raise ValueError(f"{name!r} was planned as {spec}, not {tensor.dtype} {tensor.shape}")
        view = memoryview(_bytes_of(tensor.contiguous()))
        offset = self._start + self._offsets[name] + first * spec.row_bytes
        self._missing[name] -= len(view)
        done = 0
        while done < len(view):
            done += os.pwritev(self._file.fileno(), [view[done:]], offset + done)

    def close(self) -> None:
        """Finish the file; every byte that was planned must have been written."""
        self._file.close()
        unwritten = [name for name, count in self._missing.items() if count]
        if unwritten:
            raise ValueError(f"not written completely: {unwritten[:4]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()


def _bytes_of(tensor: torch.Tensor) -> Any:
    """The memory of a contiguous tensor as a NumPy array of bytes."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _damaged(name: str, what: str) -> SourceError:
    return SourceError(
        f"'{name}' is no valid safetensors file: {what}.",
        hint="Fetch the file again and compare its size and hash with the publisher's.",
        reason="WeightsDamaged",
    )


def _read_header(descriptor: int, name: str) -> tuple[dict[str, TensorSpec], dict[str, int]]:
    """Specifications and absolute offsets of the tensors of a file."""
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if size < 8 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
        raise _damaged(name, "its header is longer than the file")
    try:
        header = json.loads(os.pread(descriptor, length, 8))
        entries = {key: value for key, value in header.items() if key != "__metadata__"}
        specs = {key: _spec(value) for key, value in entries.items()}
        ranges = {key: tuple(map(int, value["data_offsets"])) for key, value in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(name, "its header cannot be read") from error
    start, offsets = 8 + length, {}
    for key, (first, last) in ranges.items():
        if not 0 <= first <= last <= size - start or last - first != specs[key].nbytes:
            raise _damaged(name, f"the place of the tensor '{key}' does not fit the file")
        offsets[key] = start + first
    return specs, offsets


def _spec(entry: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in entry["shape"])
    if any(size < 0 for size in shape):
        raise ValueError("a negative size")
    return TensorSpec(DTYPES[entry["dtype"]], shape)
