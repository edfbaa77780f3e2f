"""All subjects of a bench get the same inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from deepseek_engine.codec import Array

from benchmarks.inputs import BenchInput, read_inputs, write_arrays


def test_arrays_come_back_in_their_order(tmp_path: Path) -> None:
    # More than ten, so that an order by text would show.
    given = [{"ids": np.full((1, 2), n, np.int64)} for n in range(12)]
    path = write_arrays(tmp_path / "inputs.npz", given)
    read = read_inputs({"arrays": path})
    assert [int(x.arrays["ids"][0, 0]) for x in read] == list(range(12))


def test_texts_are_one_input_a_call() -> None:
    read = read_inputs({"texts": [["a", "b"], ["c"]]})
    assert [x.texts for x in read] == [("a", "b"), ("c",)]


def test_texts_travel_as_byte_elements() -> None:
    (tensor,) = BenchInput(texts=("a", "é")).tensors()
    assert (tensor.datatype, tensor.shape) == ("BYTES", (2,))
    assert bytes(tensor.data) == b"\x01\x00\x00\x00a\x02\x00\x00\x00\xc3\xa9"


def test_arrays_travel_with_their_datatypes() -> None:
    arrays: dict[str, Array] = {
        "ids": np.ones((1, 3), np.int64),
        "pixels": np.ones((1, 2), np.float32),
    }
    tensors = BenchInput(arrays=arrays).tensors()
    assert [(t.name, t.datatype, t.shape) for t in tensors] == [
        ("ids", "INT64", (1, 3)),
        ("pixels", "FP32", (1, 2)),
    ]
