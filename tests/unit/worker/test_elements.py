"""Typed lists and raw bytes are two forms of the same elements."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_protos import inference_pb2 as pb
from deepseek_worker.elements import (
    TYPED_FIELDS,
    BadElements,
    contents_from_raw,
    raw_from_contents,
)
from hypothesis import given
from hypothesis import strategies as st

INTEGERS = {
    kind: st.integers(0, 2**bits - 1)
    if kind[0] == "U"
    else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for kind in TYPED_FIELDS
    if "INT" in kind
    for bits in [int(kind.partition("INT")[2])]
}
VALUES = {
    **INTEGERS,
    "BOOL": st.booleans(),
    "FP32": st.floats(width=32, allow_nan=False),
    "FP64": st.floats(allow_nan=False),
    "BYTES": st.binary(max_size=20),
}


def contents(field: str, values: list[Any]) -> pb.InferTensorContents:
    message = pb.InferTensorContents()
    getattr(message, field).extend(values)
    return message


@pytest.mark.parametrize("kind", sorted(TYPED_FIELDS))
@given(data=st.data())
def test_elements_survive_the_way_to_raw_and_back(kind: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(VALUES[kind], max_size=10))
    field = TYPED_FIELDS[kind][0]
    raw = raw_from_contents(kind, contents(field, values), expected=len(values))
    assert list(getattr(contents_from_raw(kind, memoryview(raw)), field)) == values


@pytest.mark.parametrize(
    ("kind", "value", "raw"),
    [
        ("INT16", -2, b"\xfe\xff"),
        ("UINT32", 1, b"\x01\x00\x00\x00"),
        ("FP32", 1.0, b"\x00\x00\x80\x3f"),
        ("BOOL", True, b"\x01"),
        ("BYTES", b"ab", b"\x02\x00\x00\x00ab"),
    ],
)
def test_raw_bytes_are_little_endian(kind: str, value: object, raw: bytes) -> None:
    lists = contents(TYPED_FIELDS[kind][0], [value])
    assert raw_from_contents(kind, lists, expected=1) == raw


@pytest.mark.parametrize("kind", ["INT8", "INT16", "UINT8", "UINT16"])
@pytest.mark.parametrize("value", [-(2**31), 2**31 - 1])
def test_a_value_outside_its_datatype_is_refused(kind: str, value: int) -> None:
    field = TYPED_FIELDS[kind][0]
    if field == "uint_contents":
        value = abs(value)
    with pytest.raises(BadElements, match=f"does not fit into {kind}"):
        raw_from_contents(kind, contents(field, [value]), expected=1)


@pytest.mark.parametrize("kind", ["FP16", "BF16"])
def test_half_precision_has_no_typed_form(kind: str) -> None:
    with pytest.raises(BadElements, match="raw_input_contents only"):
        raw_from_contents(kind, pb.InferTensorContents(), expected=0)


@pytest.mark.parametrize("kind", sorted(TYPED_FIELDS))
@pytest.mark.parametrize("expected", [0, 1, 3, 1 << 40])
def test_a_list_of_another_length_than_the_shape_is_refused(kind: str, expected: int) -> None:
    value = {"BYTES": b"a", "BOOL": True}.get(kind, 1)
    lists = contents(TYPED_FIELDS[kind][0], [value, value])
    with pytest.raises(BadElements, match=f"has 2 elements of data; its shape needs {expected}"):
        raw_from_contents(kind, lists, expected=expected)
