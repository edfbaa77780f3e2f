"""Shapes that graphs exist for, and how batches are made to fit them."""

from __future__ import annotations

import numpy as np
import pytest
from deepseek_engine.backends.torch.buckets import Bucket, Buckets, batch_sizes, lengths
from deepseek_engine.messages import TensorSpec
from hypothesis import given
from hypothesis import strategies as st

TEXT = (
    TensorSpec("input_ids", "INT64", (-1, -1)),
    TensorSpec("attention_mask", "INT64", (-1, -1)),
)
PICTURES = (TensorSpec("pixel_values", "FP32", (-1, 3, 8, 8)),)
HIDDEN = (
    TensorSpec("last_hidden_state", "FP32", (-1, -1, 4)),
    TensorSpec("pooled", "FP32", (-1, 4)),
)


def text(rows: int, tokens: int) -> dict[str, np.ndarray]:
    ids = np.arange(1, rows * tokens + 1).reshape(rows, tokens)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (1, (1,)),
        (6, (1, 2, 4, 6)),
        (8, (1, 2, 4, 8)),
        (32, (1, 2, 4, 8, 12, 16, 24, 32)),
        (100, (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 100)),
    ],
)
def test_batch_sizes_double_with_a_step_between(largest: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(largest) == sizes


def test_lengths_begin_at_16_and_end_at_the_longest() -> None:
    assert lengths(128) == (16, 24, 32, 48, 64, 96, 128)
    assert lengths(9) == (9,)


@given(st.integers(1, 600), st.integers(1, 600))
def test_padding_wastes_at_most_a_third_from_8_rows_on(largest: int, rows: int) -> None:
    fitting = [size for size in batch_sizes(largest) if size >= rows]
    if rows <= largest:
        assert fitting
        assert rows < 8 or fitting[0] <= rows * 1.5


@pytest.mark.parametrize(
    ("rows", "tokens", "bucket"),
    [
        (1, 16, Bucket(1, 16)),
        (1, 17, Bucket(1, 32)),
        (3, 5, Bucket(4, 16)),
        (4, 33, None),
        (5, 16, None),
    ],
)
def test_a_batch_gets_the_smallest_shape_that_holds_it(
    rows: int, tokens: int, bucket: Bucket | None
) -> None:
    buckets = Buckets(TEXT, sizes=(1, 2, 4), lengths=(16, 32))
    assert buckets.fit(text(rows, tokens)) == bucket


@pytest.mark.parametrize(
    ("specs", "count"),
    [
        pytest.param(TEXT, 6, id="batch and length"),
        pytest.param(PICTURES, 3, id="batch alone"),
        pytest.param(TEXT[:1], 0, id="a length without a mask cannot be padded"),
        pytest.param((TensorSpec("x", "FP32", (-1, 3, -1)),), 0, id="an unknown dimension"),
    ],
)
def test_shapes_are_listed_where_they_can_be_known(
    specs: tuple[TensorSpec, ...], count: int
) -> None:
    buckets = Buckets(specs, sizes=(1, 2, 4), lengths=(16, 32))
    assert len(list(buckets)) == count


def test_padding_is_masked_and_no_row_is_without_a_token() -> None:
    buckets = Buckets(TEXT, sizes=(4,), lengths=(6,))
    into = buckets.example(Bucket(4, 6))
    for array in into.values():
        array[:] = 9  # what an earlier batch left
    batch = text(2, 3)
    buckets.pad(batch, into)
    np.testing.assert_array_equal(into["input_ids"][:2, :3], batch["input_ids"])
    assert into["input_ids"][:, 3:].sum() == 0
    assert into["input_ids"][2:].sum() == 0
    assert into["attention_mask"].tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
    ]


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 4), st.integers(1, 9))
def test_what_is_padded_and_cut_is_the_batch_whatever_was_there_before(
    rows: int, tokens: int, rows_before: int, tokens_before: int
) -> None:
    buckets = Buckets(TEXT, sizes=(4,), lengths=(9,))
    into = buckets.example(Bucket(4, 9))
    buckets.pad(text(rows_before, tokens_before), into)
    batch = text(rows, tokens)
    buckets.pad(batch, into)
    hidden = np.repeat(into["input_ids"][:, :, None], 4, axis=2)
    pooled = np.repeat(into["attention_mask"].sum(axis=1)[:, None], 4, axis=1)
    outputs = {"last_hidden_state": hidden, "pooled": pooled}
    cut = buckets.cut(outputs, HIDDEN, batch)
    np.testing.assert_array_equal(cut["last_hidden_state"][:, :, 0], batch["input_ids"])
    assert cut["pooled"].tolist() == [[tokens] * 4] * rows


def test_pictures_are_padded_by_rows_only() -> None:
    buckets = Buckets(PICTURES, sizes=(4,))
    into = buckets.example(Bucket(4, 0))
    batch = {"pixel_values": np.ones((3, 3, 8, 8), np.float32)}
    buckets.pad(batch, into)
    assert into["pixel_values"].sum(axis=(1, 2, 3)).tolist() == [192, 192, 192, 0]
    logits = {"logits": np.arange(8).reshape(4, 2)}
    specs = (TensorSpec("logits", "FP32", (-1, 2)),)
    assert buckets.cut(logits, specs, batch)["logits"].tolist() == [[0, 1], [2, 3], [4, 5]]
