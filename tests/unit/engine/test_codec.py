"""Tensors of the protocol to arrays and back, bit for bit."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_engine.codec import NUMPY_TYPES, to_array, to_tensor
from deepseek_engine.messages import Tensor
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("datatype", sorted(set(NUMPY_TYPES) - {"BOOL"}))
def test_every_bit_pattern_survives(datatype: str) -> None:
    width = NUMPY_TYPES[datatype].itemsize
    data = np.random.default_rng(3).integers(0, 256, 6 * width, dtype=np.uint8).tobytes()
    tensor = to_tensor("x", datatype, to_array(Tensor("x", datatype, (2, 3), data)))
    assert (tensor.shape, bytes(tensor.data)) == ((2, 3), data)


def test_any_byte_but_zero_is_true() -> None:
    array = to_array(Tensor("x", "BOOL", (4,), b"\x00\x01\x02\xff"))
    assert array.tolist() == [False, True, True, True]
    assert bytes(to_tensor("x", "BOOL", array).data) == b"\x00\x01\x01\x01"


def test_arrays_are_views_on_the_received_bytes() -> None:
    data = bytearray(struct.pack("<2f", 1.0, 2.0))
    array = to_array(Tensor("x", "FP32", (2,), data))
    struct.pack_into("<f", data, 0, 7.0)
    assert array[0] == 7.0


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20))
def test_byte_elements_survive(elements: list[bytes]) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    tensor = to_tensor("x", "BYTES", array)
    assert to_array(tensor).tolist() == elements


def test_text_elements_are_utf8() -> None:
    assert (
        to_tensor("x", "BYTES", np.array(["é"], dtype=object)).data == b"\x02\x00\x00\x00\xc3\xa9"
    )


@pytest.mark.parametrize(
    ("data", "shape", "text"),
    [
        pytest.param(b"\x01\x00", (1,), "inside the length of element 0", id="half a length"),
        pytest.param(b"\x05\x00\x00\x00ab", (1,), "5 bytes; 2 are left", id="length too large"),
        pytest.param(b"\xff\xff\xff\xffab", (1,), "4294967295 bytes", id="length 2**32-1"),
        pytest.param(b"\x01\x00\x00\x00a", (2,), "1 elements; its shape says 2", id="too few"),
        pytest.param(b"\x00\x00\x00\x00" * 3, (2,), "more elements than the 2", id="too many"),
        pytest.param(b"", (1,), "0 elements", id="nothing"),
    ],
)
def test_malformed_bytes_are_refused(data: bytes, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(InferenceError, match=text) as caught:
        to_array(Tensor("x", "BYTES", shape, data))
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert "'x'" in caught.value.message


@pytest.mark.parametrize("array", [np.float32(3.0), np.zeros((0, 4), np.float32)], ids=["0d", "0"])
def test_odd_shapes_are_encoded(array: np.ndarray) -> None:
    tensor = to_tensor("x", "FP32", np.asarray(array))
    assert len(tensor.data) == array.nbytes


def test_a_view_with_gaps_is_made_contiguous() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    assert to_array(to_tensor("x", "FP32", array)).tolist() == array.tolist()
