"""Tensors of the protocol to NumPy arrays and back.

Why it exists: the protocol's datatypes and NumPy's differ in two places, BYTES and BF16, and both
must be handled once. A BF16 array is held as its raw bits in ``uint16``; a BYTES array is an
object array of ``bytes``. Front ends must not import it: it needs NumPy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_engine.messages import Tensor
from deepseek_engine.validation import split_bytes

__all__ = ["NUMPY_TYPES", "Array", "to_array", "to_tensor"]

Array = npt.NDArray[Any]
"""Any array."""

NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The array type of every fixed-size datatype; BF16 is raw bits."""


def to_array(tensor: Tensor) -> Array:
    """The array of a tensor: a view on its bytes, except for BYTES and BOOL.

    The tensor's size must have been checked.

    Raises:
        InferenceError: INVALID_ARGUMENT, when a BYTES tensor is malformed.
    """
    if tensor.datatype == "BYTES":
        count = int(np.prod(tensor.shape, dtype=np.int64))
        elements = split_bytes(tensor.data, name=tensor.name, expected=count)
        array = np.empty(count, dtype=object)
        array[:] = elements
        return array.reshape(tensor.shape)
    flat = np.frombuffer(tensor.data, dtype=NUMPY_TYPES[tensor.datatype])
    if tensor.datatype == "BOOL":
        # Any byte but zero is true; a runtime may trust that a bool is 0 or 1.
        flat = flat.view(np.uint8) != 0
    return flat.reshape(tensor.shape)


def to_tensor(name: str, datatype: str, array: Array) -> Tensor:
    """The tensor of an array; the array must not change afterwards.

    ``array`` may hold `str` or `bytes` elements when the datatype is BYTES.
    """
    shape = tuple(int(size) for size in array.shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, join_bytes(array.ravel()))
    wanted = NUMPY_TYPES[datatype]
    contiguous = np.ascontiguousarray(array, dtype=wanted)
    # ndim 0 and empty arrays cannot be cast to a flat view of bytes.
    data = contiguous.reshape(-1).view(np.uint8).data if contiguous.size else b""
    return Tensor(name, datatype, shape, data)


def join_bytes(elements: Iterable[bytes | str]) -> bytes:
    """Elements of a BYTES tensor as its data: each after its 4-byte little-endian length."""
    parts: list[bytes] = []
    for element in elements:
        data = element.encode() if isinstance(element, str) else bytes(element)
        parts.append(struct.pack("<I", len(data)))
        parts.append(data)
    return b"".join(parts)
