"""NumPy arrays to and from tensors of the Open Inference Protocol.

Why it exists: both clients and the in-process engine speak of the same datatypes; this is the one
table. Only raw little-endian contents are written; typed contents are read as well, because other
servers answer with them. It does no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from deepseek_api.errors import ErrorCode, InferenceError
from numpy.typing import NDArray

Array = NDArray[Any]
TensorInput = Array | Sequence[str] | Sequence[bytes]
"""What a caller may pass for one input."""

DTYPES: dict[str, np.dtype[Any]] = {
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
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""NumPy types of the fixed-size datatypes; BF16 and BYTES have none and are treated apart."""

_DATATYPE_OF = {dtype.newbyteorder("="): name for name, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<I")


def datatype_of(array: Array) -> str:
    """The protocol's name for the type of an array, or the type's own if there is none."""
    if array.dtype.kind in "OSU":
        return "BYTES"
    return _DATATYPE_OF.get(array.dtype.newbyteorder("="), array.dtype.name.upper())


def encode(name: str, value: TensorInput) -> tuple[str, tuple[int, ...], bytes]:
    """Datatype, shape and contiguous little-endian bytes of one input.

    A sequence of ``n`` strings or byte strings becomes a BYTES tensor of shape ``[n]``: a batch
    of single elements. An array keeps its shape; arrays of strings become BYTES. An array of the
    type ``bfloat16`` of the package ``ml_dtypes`` becomes BF16.

    Raises:
        InferenceError: the value has a type that no datatype stands for.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OSU":
            return "BYTES", value.shape, pack_bytes(value.reshape(-1).tolist(), name=name)
        return _encode_numbers(name, value)
    if isinstance(value, (list, tuple)):
        return "BYTES", (len(value),), pack_bytes(value, name=name)
    raise _unusable(name, f"is a {type(value).__name__}")


def _encode_numbers(name: str, value: Array) -> tuple[str, tuple[int, ...], bytes]:
    if value.dtype.name == "bfloat16":
        return "BF16", value.shape, np.ascontiguousarray(value).view("<u2").tobytes()
    datatype = _DATATYPE_OF.get(value.dtype.newbyteorder("="))
    if datatype is None:
        raise _unusable(name, f"is an array of {value.dtype}")
    return datatype, value.shape, np.ascontiguousarray(value, DTYPES[datatype]).tobytes()


def pack_bytes(elements: Iterable[object], *, name: str = "input") -> bytes:
    """A BYTES tensor's data: each element as a 4-byte little-endian length and its bytes."""
    parts: list[bytes] = []
    for element in elements:
        data = element.encode() if isinstance(element, str) else element
        if not isinstance(data, bytes):
            raise _unusable(name, f"holds a {type(element).__name__}")
        parts += [_LENGTH.pack(len(data)), data]
    return b"".join(parts)


def decode(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """The array of one output; BYTES gives an object array of ``bytes``, BF16 widens to float32.

    Raises:
        InferenceError: the data does not fit the datatype and shape.
    """
    if datatype == "BYTES":
        elements = unpack_bytes(data)
        array = np.empty(len(elements), dtype=object)
        array[:] = elements
    elif datatype == "BF16":
        # bfloat16 is the upper half of a float32, so shifting up loses nothing.
        array = (_numbers(np.dtype("<u2"), data).astype(np.uint32) << 16).view(np.float32)
    elif datatype in DTYPES:
        array = _numbers(DTYPES[datatype], data)
    else:
        raise _damaged(f"has the unknown datatype '{datatype}'")
    if array.size != int(np.prod(shape, dtype=np.int64)):
        raise _damaged(f"holds {array.size} elements for the shape {list(shape)}")
    return array.reshape(tuple(shape))


def _numbers(dtype: np.dtype[Any], data: bytes | memoryview) -> Array:
    if len(data) % dtype.itemsize:
        raise _damaged(f"has {len(data)} bytes, no multiple of {dtype.itemsize}")
    return np.frombuffer(data, dtype)


def unpack_bytes(data: bytes | memoryview) -> list[bytes]:
    """The elements of a BYTES tensor.

    Raises:
        InferenceError: a length points past the end.
    """
    view, elements, position = memoryview(data), [], 0
    while position < len(view):
        start = position + _LENGTH.size
        if start > len(view):
            raise _damaged("ends inside a length")
        (length,) = _LENGTH.unpack(view[position:start])
        position = start + length
        if position > len(view):
            raise _damaged("ends inside an element")
        elements.append(bytes(view[start:position]))
    return elements


def _unusable(name: str, what: str) -> InferenceError:
    return InferenceError(
        f"The input '{name}' {what}, which cannot be sent.",
        code=ErrorCode.INVALID_ARGUMENT,
        hint="Pass a NumPy array of numbers or bool, or a list of str or bytes.",
        reason="InvalidInput",
    )


def _damaged(what: str) -> InferenceError:
    return InferenceError(
        f"A tensor of the server's answer {what}.",
        code=ErrorCode.INTERNAL,
        reason="DamagedAnswer",
    )
