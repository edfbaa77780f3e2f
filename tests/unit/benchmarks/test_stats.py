"""Medians, spreads and ratios of interleaved rounds."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stats import Better, Rounds, compare, percentile, significant

positive = st.floats(min_value=1e-3, max_value=1e6)
rounds_of = st.lists(positive, min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        ([3.0], 0.9, 3.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([3.0, 1.0, 2.0], 0.0, 1.0),
        ([3.0, 1.0, 2.0], 1.0, 3.0),
        ([0.0, 10.0], 0.9, 9.0),
    ],
    ids=["one value", "middle", "least", "most", "between two"],
)
def test_a_percentile_is_interpolated(values: list[float], part: float, expected: float) -> None:
    assert percentile(values, part) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "part"), [([], 0.5), ([1.0], 1.1), ([1.0], -0.1)], ids=["none", "above", "below"]
)
def test_a_percentile_of_nothing_is_refused(values: list[float], part: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, part)


@given(rounds_of)
def test_the_middle_percentile_is_the_median(values: list[float]) -> None:
    assert percentile(values, 0.5) == pytest.approx(statistics.median(values))


@given(rounds_of)
def test_a_spread_lies_around_the_median(values: list[float]) -> None:
    rounds = Rounds(tuple(values), n=len(values))
    spread = rounds.spread()
    # The spread is rounded to four digits.
    assert spread.low * (1 - 1e-3) <= rounds.median <= spread.high * (1 + 1e-3)


@pytest.mark.parametrize(("better", "ratio"), [("lower", 0.5), ("higher", 2.0)])
def test_a_ratio_above_one_means_better(better: Better, ratio: float) -> None:
    own, other = Rounds((2.0, 2.0), n=2), Rounds((1.0, 1.0), n=2)
    assert compare(own, other, better=better).ratio == ratio


def test_one_stalled_round_changes_the_range_and_not_the_ratio() -> None:
    own = Rounds((10.0, 10.0, 10.0, 10.0, 90.0), n=5)
    other = Rounds((20.0,) * 5, n=5)
    compared = compare(own, other, better="lower")
    assert compared.ratio == 2.0
    assert compared.low < 1.5
    assert compared.high == 2.0


@given(rounds_of, st.floats(min_value=0.1, max_value=10))
def test_a_constant_factor_is_found_whatever_the_machine_does(
    values: list[float], factor: float
) -> None:
    own = Rounds(tuple(values), n=1)
    other = Rounds(tuple(value * factor for value in values), n=1)
    compared = compare(own, other, better="lower")
    assert compared.ratio == pytest.approx(factor)
    assert compared.low == pytest.approx(factor)
    assert compared.high == pytest.approx(factor)


def test_subjects_of_different_rounds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same rounds"):
        compare(Rounds((1.0,), n=1), Rounds((1.0, 2.0), n=2), better="lower")


@pytest.mark.parametrize(
    ("value", "expected"), [(123456.0, 123500.0), (0.00123456, 0.001235), (0.0, 0.0)]
)
def test_figures_keep_four_digits(value: float, expected: float) -> None:
    assert significant(value) == expected
