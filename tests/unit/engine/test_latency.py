"""The estimate of a batch's time."""

from __future__ import annotations

import random

import pytest
from deepseek_engine.latency import LatencyModel


def learned(*, noise: float = 0.0, seed: int = 1) -> LatencyModel:
    model, draw = LatencyModel(), random.Random(seed)
    for _ in range(300):
        rows = draw.randint(1, 32)
        model.observe("x", rows=rows, seconds=(0.002 + 0.001 * rows) * (1 + draw.uniform(0, noise)))
    return model


def test_an_unknown_shape_is_predicted_as_zero() -> None:
    assert LatencyModel().predict("x", 8) == 0.0


@pytest.mark.parametrize("rows", [1, 8, 32])
def test_a_line_is_learned(rows: int) -> None:
    assert learned().predict("x", rows) == pytest.approx(0.002 + 0.001 * rows, rel=0.02)


def test_noise_is_answered_on_the_safe_side() -> None:
    model = learned(noise=0.5)
    draw = random.Random(2)
    late = sum(
        (0.002 + 0.001 * 16) * (1 + draw.uniform(0, 0.5)) > model.predict("x", 16)
        for _ in range(500)
    )
    assert late <= 500 * 0.05


def test_one_size_is_scaled_up_and_never_down() -> None:
    model = LatencyModel()
    for _ in range(10):
        model.observe("x", rows=4, seconds=0.4)
    assert model.predict("x", 8) == pytest.approx(0.8)
    assert model.predict("x", 1) == pytest.approx(0.4)


def test_the_largest_batch_within_a_time_is_found() -> None:
    assert learned().largest("x", within_s=0.012, most=32) == pytest.approx(10, abs=1)
    assert learned().largest("x", within_s=0.0, most=32) == 1
    assert LatencyModel().largest("x", within_s=0.0, most=32) == 32


def test_shapes_are_forgotten_beyond_a_bound() -> None:
    model = LatencyModel()
    for bucket in range(1000):
        model.observe(bucket, rows=1, seconds=1.0)
    assert model.predict(0, 1) == 0.0
    assert model.predict(999, 1) == pytest.approx(1.0)
