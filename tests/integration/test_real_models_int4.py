"""Int4 of the real sentence encoder: calibrated values keep what plain rounding loses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from benchmarks.accuracy.subject import Trained

pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

MEAN_COSINE = 0.97
SENTENCES = 0.25
"""Part of the committed sentences that judges; calibration uses others."""


def no_training(*_: Any, **__: Any) -> None:
    raise AssertionError("the model comes trained")


@pytest.fixture(scope="module")
def minilm() -> Trained:
    import torch

    from benchmarks.accuracy import real
    from benchmarks.accuracy.subject import Effort

    torch.set_num_threads(1)  # spinning threads of several test processes cost more than they give
    (subject,) = (subject for subject in real.SUBJECTS if subject.name == "MiniLM")
    return subject.make(0, Effort(SENTENCES), no_training)


def mean_cosine(trained: Trained, variant: str) -> float:
    """With the vectors of fp32."""
    from benchmarks.accuracy.variants import VARIANTS, quantize

    return trained.score(quantize(trained, VARIANTS[variant]).module).value


def test_gptq_keeps_the_vectors_and_beats_rounding_to_the_nearest(minilm: Trained) -> None:
    calibrated = mean_cosine(minilm, "int4 gptq")
    assert calibrated >= MEAN_COSINE
    assert calibrated > mean_cosine(minilm, "int4 nearest")
