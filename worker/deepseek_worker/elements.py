"""Elements of tensors: typed lists to raw bytes and back, and the BYTES layout.

Why it exists: the protocol carries the same tensor in two forms, and the engine knows only one,
little-endian row-major bytes. The standard library's arrays do the work, so that a front end needs
no NumPy. It knows nothing of requests or models.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Any

from deepseek_engine.client import DATATYPE_BYTES, Buffer
from deepseek_protos import inference_pb2 as pb

__all__ = ["BadElements", "contents_from_raw", "raw_from_contents"]

TYPED_FIELDS: dict[str, tuple[str, str]] = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
    "BYTES": ("bytes_contents", ""),
}
"""Field of InferTensorContents and array type code by datatype; FP16 and BF16 have no field."""

DATATYPES = frozenset(DATATYPE_BYTES) | {"BYTES"}
"""Every datatype of the protocol."""


class BadElements(Exception):
    """Data do not have the form that their datatype asks for; the text completes a sentence."""


def raw_from_contents(datatype: str, contents: pb.InferTensorContents, *, expected: int) -> bytes:
    """The raw bytes of a typed list.

    Args:
        datatype: of the tensor.
        contents: its typed lists.
        expected: elements that its shape asks for.

    Raises:
        BadElements: the list is not the one of the datatype, has another number of elements, or a
            value does not fit into the datatype.
    """
    filled = [field.name for field, _ in contents.ListFields()]
    if datatype not in TYPED_FIELDS:
        raise BadElements(f"has datatype {datatype}, which travels in raw_input_contents only")
    field, code = TYPED_FIELDS[datatype]
    for name in filled:
        if name != field:
            raise BadElements(f"has datatype {datatype}, which uses {field}, not {name}")
    values: Any = getattr(contents, field)
    # Before the conversion, which takes seconds for the largest messages.
    if len(values) != expected:
        raise BadElements(f"has {len(values)} elements of data; its shape needs {expected}")
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(item)) + item for item in values)
    if datatype == "BOOL":
        return bytes(values)
    try:
        elements = array(code, values)
    except OverflowError:
        raise BadElements(f"has a value in {field} that does not fit into {datatype}") from None
    return _little_endian(elements).tobytes()


def contents_from_raw(datatype: str, data: Buffer) -> pb.InferTensorContents:
    """The typed list of a tensor's raw bytes; the datatype must have one."""
    field, code = TYPED_FIELDS[datatype]
    if datatype == "BYTES":
        return pb.InferTensorContents(bytes_contents=_split(data))
    if datatype == "BOOL":
        return pb.InferTensorContents(bool_contents=[bool(item) for item in bytes(data)])
    elements = array(code)
    elements.frombytes(bytes(data))
    contents = pb.InferTensorContents()
    getattr(contents, field).extend(_little_endian(elements))
    return contents


def _split(data: Buffer) -> list[bytes]:
    view = memoryview(data)
    items: list[bytes] = []
    offset = 0
    while offset < len(view):
        (length,) = struct.unpack_from("<I", view, offset)
        items.append(bytes(view[offset + 4 : offset + 4 + length]))
        offset += 4 + length
    return items


def _little_endian(elements: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        elements.byteswap()
    return elements
