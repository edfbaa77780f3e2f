"""Reading GGUF files: the header as a whole, tensors some rows at a time.

Why it exists: the reader of the package ``gguf`` makes an array of every single token of a
vocabulary, which took a minute and 700 MB for the 262,144 tokens of Gemma 3. This one reads the
header once and believes nothing in it: a length that leads out of the file is an error, not an
allocation. Layout: magic, version, counts, then metadata, then the places of tensors, then data.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
import torch
from deepseek_api.errors import ErrorCode, SourceError
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

__all__ = ["GgufFile", "GgufTensor"]

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
ALIGNMENT: Final = 32
"""Bytes to whose multiples data are aligned unless the metadata say otherwise."""
MOST_DIMENSIONS: Final = 4
STRING, ARRAY = 8, 9
SCALARS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Types of metadata values as the format numbers them, as ``struct`` names them."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor and its place in the file."""

    shape: tuple[int, ...]
    """Slowest dimension first, as torch has it (the file has it the other way round)."""
    type: GGMLQuantizationType
    offset: int
    """Of its first byte in the file."""

    @property
    def rows(self) -> int:
        """Vectors of the fastest dimension."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of one of them; blocks of quantized numbers never cross rows."""
        block, size = GGML_QUANT_SIZES[self.type]
        return self.shape[-1] // block * size


class GgufFile:
    """An open file; close it after use."""

    def __init__(self, path: Path) -> None:
        """Open a file and read its header.

        Raises:
            SourceError: it is no GGUF file of a known version, or it is damaged.
        """
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise SourceError(
                f"'{path.name}' cannot be opened: {error.strerror}.",
                hint="Check the path and its permissions.",
                reason="WeightsNotFound",
            ) from error
        try:
            header = _Header(self._file, path.name)
            self.metadata: dict[str, Any] = header.metadata
            self.tensors: dict[str, GgufTensor] = header.tensors
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows of a tensor as fp32.

        Args:
            name: as in the file.
            first: the first row; a vector is one row.
            last: the row after the last one; None: to the end.

        Returns:
            ``[rows, columns]``.

        Raises:
            SourceError: the file ends inside, or nothing can read this kind of numbers.
        """
        tensor = self.tensors[name]
        count = (tensor.rows if last is None else min(last, tensor.rows)) - first
        raw = bytearray(count * tensor.row_bytes)
        done, start = 0, tensor.offset + first * tensor.row_bytes
        while done < len(raw):
            got = os.preadv(self._file.fileno(), [memoryview(raw)[done:]], start + done)
            if got == 0:
                raise _damaged(self.path.name, f"it ends inside the tensor '{name}'")
            done += got
        try:
            rows = np.frombuffer(raw, np.uint8).reshape(count, tensor.row_bytes)
            numbers = dequantize(rows, tensor.type)
        except NotImplementedError as error:
            raise _unreadable(name, tensor.type.name) from error
        # A copy of what is a view for plain numbers: torch wants memory that it may write.
        return torch.from_numpy(np.array(numbers, np.float32))

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


class _Header:
    """Metadata and places of tensors, read from the start of a file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._left = os.fstat(file.fileno()).st_size
        if self._take(4) != MAGIC:
            raise _damaged(name, "it does not begin with the letters GGUF")
        (version,) = self._unpack("I")
        if version not in VERSIONS:
            raise SourceError(
                f"'{name}' is a GGUF file of version {version}, which cannot be read.",
                hint="Versions 2 and 3, little-endian, can; convert the model again.",
                code=ErrorCode.UNIMPLEMENTED,
                reason="UnsupportedFormat",
            )
        tensors, entries = self._unpack("QQ")
        self.metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._string()
            self.metadata[key] = self._value(*self._unpack("I"))
        places = [self._tensor() for _ in range(tensors)]
        self.tensors = dict(self._placed(*place) for place in places)

    def _take(self, count: int) -> bytes:
        # Before reading: a damaged length must not become an allocation of that size.
        if count > self._left:
            raise _damaged(self._name, "its header leads out of the file")
        self._left -= count
        return self._file.read(count)

    def _unpack(self, fields: str) -> tuple[Any, ...]:
        return struct.unpack("<" + fields, self._take(struct.calcsize("<" + fields)))

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        # Single tokens may be parts of characters; what is lost then is found by the round trip.
        return self._take(length).decode(errors="surrogateescape")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            element, count = self._unpack("IQ")
            if element == STRING:
                return [self._string() for _ in range(self._fitting(count, 8))]
            if element in SCALARS:
                width = struct.calcsize(SCALARS[element])
                return list(self._unpack(f"{self._fitting(count, width)}{SCALARS[element]}"))
        if kind in SCALARS:
            return self._unpack(SCALARS[kind])[0]
        raise _damaged(self._name, "its metadata hold a value of an unknown type")

    def _fitting(self, count: int, width: int) -> int:
        if count * width > self._left:
            raise _damaged(self._name, "its header leads out of the file")
        return count

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        (dimensions,) = self._unpack("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise _damaged(self._name, f"the tensor '{name}' has {dimensions} dimensions")
        sizes = self._unpack(f"{dimensions}Q")
        kind, offset = self._unpack("IQ")
        return name, sizes[::-1], kind, offset

    def _placed(
        self, name: str, shape: tuple[int, ...], kind: int, offset: int
    ) -> tuple[str, GgufTensor]:
        try:
            known = GGMLQuantizationType(kind)
            block, _ = GGML_QUANT_SIZES[known]
        except (ValueError, KeyError) as error:
            raise _unreadable(name, f"number {kind}") from error
        if 0 in shape or shape[-1] % block:
            raise _damaged(self._name, f"the tensor '{name}' has the shape {list(shape)}")
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise _damaged(self._name, f"its data are aligned to {alignment}")
        start = -(-self._file.tell() // alignment) * alignment
        tensor = GgufTensor(shape, known, start + offset)
        size = os.fstat(self._file.fileno()).st_size
        if tensor.offset + tensor.rows * tensor.row_bytes > size:
            raise _damaged(self._name, f"it ends before or inside the tensor '{name}'")
        return name, tensor


def _damaged(name: str, what: str) -> SourceError:
    return SourceError(
        f"'{name}' is no valid GGUF file: {what}.",
        hint="Fetch the file again and compare its size and hash with the publisher's.",
        reason="WeightsDamaged",
    )


def _unreadable(tensor: str, kind: str) -> SourceError:
    return SourceError(
        f"The tensor '{tensor}' is quantized as {kind}, which cannot be read.",
        hint="Fetch another quantization of this model, such as Q8_0 or Q4_K_M.",
        code=ErrorCode.UNIMPLEMENTED,
        reason="UnsupportedFormat",
    )
