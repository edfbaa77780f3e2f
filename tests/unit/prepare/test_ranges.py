"""Rounding weights to int8: how far off they may be, and what 16-bit sums can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from deepseek_engine.prepare.quantize.ranges import (
    round_channels,
    round_columns_in_pairs,
    round_filters_in_pairs,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

Matrix = npt.NDArray[np.float32]

INT16 = np.iinfo(np.int16)

MATRICES = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-1e6, 1e6, width=32)
    | st.sampled_from([0.0, 1.0, -1.0, 1e-45, 1.1754944e-38, 126.5, 127.0]),
)


def assert_near(weights: Matrix, values: Any, scales: Any) -> None:
    """Every weight is at most half a step from what its int8 value means."""
    steps = np.broadcast_to(scales, weights.shape).astype(np.float64)
    off = np.abs(weights.astype(np.float64) - values.astype(np.float64) * steps)
    # Dividing and the scale itself are rounded in fp32: up to 127 half-ulps of a step.
    assert (off <= steps * (0.5 + 1e-4)).all()


FILTERS = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=4, max_dims=4, max_side=4),
    elements=st.floats(-9, 9, width=32),
)


def assert_fits_16_bits(values: Any) -> None:
    """Sums of two products along K of ``[K, N]``, for every unsigned activation, fit in int16."""
    wide = values.astype(np.int64)
    if len(wide) % 2:
        wide = np.vstack([wide, np.zeros_like(wide[:1])])
    first, second = wide[0::2], wide[1::2]
    # Unsigned activations are 0 to 255 each; the extremes are at the corners.
    corners = np.stack([255 * first, 255 * second, 255 * (first + second)])
    assert corners.max() <= INT16.max
    assert corners.min() >= INT16.min


@given(weights=MATRICES)
def test_no_two_neighbours_of_a_column_saturate_a_16_bit_sum(weights: Matrix) -> None:
    assert_fits_16_bits(round_columns_in_pairs(weights)[0])


@given(filters=FILTERS)
def test_no_two_neighbours_of_a_filter_saturate_in_either_order(filters: Matrix) -> None:
    values, scales = round_filters_in_pairs(filters)
    channels_last = np.moveaxis(values, 1, -1)
    for order in (values, channels_last):
        assert_fits_16_bits(order.reshape(len(order), -1).T)
    assert_near(filters, values, scales)


@given(weights=MATRICES)
def test_pairs_are_rounded_to_the_nearest_step(weights: Matrix) -> None:
    assert_near(weights, *round_columns_in_pairs(weights))


@given(weights=MATRICES, axis=st.integers(0, 1))
def test_channels_are_rounded_to_the_nearest_step(weights: Matrix, axis: int) -> None:
    assert_near(weights, *round_channels(weights, axis=axis))


@given(weights=MATRICES)
def test_scales_are_positive_numbers_of_a_column(weights: Matrix) -> None:
    _, scales = round_columns_in_pairs(weights)
    assert scales.shape == (1, weights.shape[1])
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    assert np.isfinite(scales).all()


def test_the_largest_weight_of_a_channel_takes_the_largest_value() -> None:
    weights = np.array([[0.1, -3.0], [0.2, 1.0]], np.float32)
    values, scales = round_channels(weights, axis=0)
    assert np.abs(values).max(axis=1).tolist() == [127, 127]
    assert scales.shape == (2, 1)


@pytest.mark.parametrize("rows", [2, 3])
def test_a_column_of_zeros_stays_zero_beside_others(rows: int) -> None:
    weights = np.zeros((rows, 2), np.float32)
    weights[:, 1] = 5.0
    values, scales = round_columns_in_pairs(weights)
    assert values[:, 0].tolist() == [0] * rows
    assert scales[0, 0] == 1.0


def test_neighbours_of_opposite_sign_use_the_whole_range() -> None:
    values, _ = round_columns_in_pairs(np.array([[1.0], [-1.0]], np.float32))
    assert values.ravel().tolist() == [127, -127]


def test_neighbours_of_the_same_sign_share_the_range() -> None:
    values, _ = round_columns_in_pairs(np.array([[1.0], [1.0]], np.float32))
    assert values.ravel().tolist() == [63, 63]


def test_the_last_of_an_odd_number_of_rows_shares_with_nobody() -> None:
    values, _ = round_columns_in_pairs(np.array([[1.0], [-1.0], [2.0]], np.float32))
    assert values.ravel().tolist() == [63, -63, 126]  # one is kept back for a neighbour's rounding
