"""The decoder computes what transformers computes, however its tokens come and its blocks lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_engine.generation.weights import load_decoder

from tests.support.decoders import (
    VARIANTS,
    Driver,
    make_reference,
    prompt,
    reference_greedy,
    reference_scores,
)

COUNT = 64
PROMPTS = {"a": prompt(21, seed=1), "b": prompt(3, seed=2), "c": prompt(34, seed=3)}
Pair = tuple[Any, Path]


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A model of transformers and the folder it was saved in."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return make_reference(request.param, folder), folder


def test_scores_of_a_prompt_are_those_of_transformers(pair: Pair) -> None:
    model, folder = pair
    tokens = prompt(40, seed=5)
    scores = Driver(load_decoder(folder)).step({"a": tokens}, rows="all")
    wanted = reference_scores(model, tokens)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "chunk", [pytest.param(0, id="whole"), pytest.param(7, id="chunks"), pytest.param(1, id="one")]
)
def test_greedy_tokens_are_those_of_transformers(pair: Pair, chunk: int) -> None:
    """Three sequences share steps; their blocks lie in a shuffled order."""
    model, folder = pair
    found = Driver(load_decoder(folder), blocks=80).greedy(PROMPTS, COUNT, chunk=chunk)
    for name, tokens in PROMPTS.items():
        assert found[name] == reference_greedy(model, tokens, found[name])
