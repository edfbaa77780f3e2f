"""The decoder computes what transformers computes, however its tokens come and its blocks lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_api.errors import ConfigurationError
from deepseek_engine.generation.config import DecoderConfig
from deepseek_engine.generation.decoder.kernels import Kernels
from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.weights import load_decoder

from tests.support.decoders import (
    VARIANTS,
    Driver,
    make_reference,
    prompt,
    reference_greedy,
    reference_scores,
)
from tests.support.ranks import on_ranks, places

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


@pytest.mark.parametrize("stored", ["fp32", "int8"])
def test_the_definitions_of_the_kernels_give_the_same_scores(pair: Pair, stored: str) -> None:
    """On a processor an operation computes what defines it, so that arguments are held here."""
    decoder = load_decoder(pair[1], cache_dtype=stored)
    if decoder.config.latent is not None:
        return  # no kernel is asked
    parts = [{"a": prompt(13, seed=1), "b": prompt(6, seed=2)}, {"b": [5], "a": prompt(3)}]
    plain, by_kernels = Driver(decoder), Driver(decoder)
    wanted = [plain.step(part, rows="all") for part in parts]
    decoder.kernels = Kernels()
    for part, scores in zip(parts, wanted, strict=True):
        found = by_kernels.step(part, rows="all")
        limit = 1e-4 if stored == "fp32" else 1e-2  # a cached number may round the other way
        assert (found - scores).norm() < limit * scores.norm()


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_two_ranks_compute_what_one_does(pair: Pair, quantization: str | None) -> None:
    """With two sums a layer, one for the embedding, and one gather of scores."""
    _, folder = pair
    config = DecoderConfig.read(folder)
    if config.heads % 2:
        with pytest.raises(ConfigurationError, match="attention heads"):
            load_decoder(folder, parallel=places(tensor=2)[0])
        return

    def run(context: ParallelContext) -> torch.Tensor:
        decoder = load_decoder(folder, parallel=context, quantization=quantization)
        driver = Driver(decoder)
        driver.step({"a": PROMPTS["a"]})
        context.traffic.clear()
        scores = driver.step({"a": [5], "b": PROMPTS["b"]}, rows="all")
        assert context.traffic.calls == {"all_reduce": 2 * config.layers + 1, "all_gather": 1}
        return scores

    driver = Driver(load_decoder(folder, quantization=quantization))
    driver.step({"a": PROMPTS["a"]})
    wanted = driver.step({"a": [5], "b": PROMPTS["b"]}, rows="all")
    limit = 1e-4 if quantization is None else 0.1  # a part of a token has a scale of its own
    for scores in on_ranks(run, tensor=2):
        assert (scores - wanted).norm() < limit * wanted.norm()
