"""Arrays to tensors and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from deepseek._tensors import DTYPES, decode, encode, pack_bytes, unpack_bytes
from deepseek_api.errors import ErrorCode, InferenceError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_numeric_datatype_comes_back_as_it_was(datatype: str) -> None:
    array = np.array([[0, 1], [1, 0], [1, 1]]).astype(DTYPES[datatype])
    name, shape, data = encode("x", array)
    assert (name, shape) == (datatype, (3, 2))
    back = decode(name, shape, data)
    assert back.dtype == DTYPES[datatype]
    np.testing.assert_array_equal(back, array)


@given(st_numpy.arrays(np.float32, st_numpy.array_shapes(max_dims=4, min_side=0)))
def test_floats_come_back_bit_by_bit(array: np.ndarray[Any, Any]) -> None:
    assert decode(*encode("x", array)).tobytes() == array.tobytes()


@given(st.lists(st.binary(max_size=40)))
def test_bytes_come_back(elements: list[bytes]) -> None:
    assert unpack_bytes(pack_bytes(elements)) == elements


def test_arrays_of_another_byte_order_and_layout_are_sent_little_endian_and_row_major() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    datatype, shape, data = encode("x", array)
    assert (datatype, shape) == ("INT32", (3, 2))
    assert data == np.ascontiguousarray(array.astype("<i4")).tobytes()


def test_a_list_of_texts_is_a_batch_of_single_elements() -> None:
    assert encode("text", ["ä", "b"]) == ("BYTES", (2,), pack_bytes(["ä", b"b"]))


def test_an_array_of_texts_keeps_its_shape() -> None:
    assert encode("text", np.array([["a"], ["b"]]))[:2] == ("BYTES", (2, 1))


def test_bf16_answers_widen_to_the_same_number() -> None:
    values = np.array([1.5, -2.0, 3.0e38], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(decode("BF16", (3,), halves.tobytes()), expected)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(np.zeros(2, np.complex64), "an array of complex64", id="complex"),
        pytest.param([1.0, 2.0], "holds a float", id="list of numbers"),
        pytest.param(7, "is a int", id="number"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(value: Any, words: str) -> None:
    with pytest.raises(InferenceError, match=words) as caught:
        encode("pixels", value)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert "'pixels'" in caught.value.message


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        pytest.param("FP32", (2,), b"1234567", id="bytes left over"),
        pytest.param("FP32", (3,), b"12345678", id="too few elements"),
        pytest.param("BYTES", (1,), b"\x02\x00", id="cut length"),
        pytest.param("BYTES", (1,), b"\x09\x00\x00\x00ab", id="cut element"),
        pytest.param("FP9", (1,), b"1234", id="unknown datatype"),
    ],
)
def test_a_damaged_answer_is_an_internal_error(
    datatype: str, shape: tuple[int, ...], data: bytes
) -> None:
    with pytest.raises(InferenceError) as caught:
        decode(datatype, shape, data)
    assert caught.value.code is ErrorCode.INTERNAL
