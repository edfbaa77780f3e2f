"""The real decoder, divided, chooses the tokens that it chooses whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.pipeline import run_stages
from deepseek_engine.generation.weights import load_decoder

from tests.support import decoders
from tests.support.decoders import DEEPSEEK, Driver, make_reference, prompt
from tests.support.ranks import on_ranks

pytestmark = pytest.mark.timeout(300)

PROMPTS = {"a": prompt(9, seed=1), "b": prompt(3, seed=2), "c": prompt(14, seed=3)}
COUNT = 8
FOUR_HEADS = "deepseek, four heads"


def chosen(folder: Path, context: ParallelContext, wanted: dict[str, list[int]]) -> list[list[int]]:
    """Tokens that rank 0 would choose after each of the wanted ones, step by step.

    All ranks are fed the wanted tokens, because only rank 0 sees scores.
    """
    decoder = load_decoder(folder, parallel=context)
    driver = Driver(decoder, blocks=64)
    found = []
    parts = {name: list(tokens) for name, tokens in PROMPTS.items()}
    for step in range(COUNT):
        scores = run_stages(decoder, driver.inputs(parts), driver.cache, context, micro_batches=2)
        found.append([] if scores is None else scores.argmax(-1).tolist())
        parts = {name: [wanted[name][step]] for name in PROMPTS}
    return found


@pytest.mark.parametrize(
    ("variant", "tensor", "pipeline"),
    [
        ("llama", 2, 1),
        ("llama, tied, with biases", 2, 1),
        ("qwen3", 1, 2),
        ("gemma3", 4, 1),
        ("gemma3", 2, 2),
        ("gpt2", 3, 1),
        ("gpt2", 1, 2),
        (FOUR_HEADS, 2, 1),
        (FOUR_HEADS, 1, 3),
    ],
)
def test_a_divided_decoder_chooses_the_same_tokens(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    tensor: int,
    pipeline: int,
) -> None:
    fields = DEEPSEEK | {"num_attention_heads": 4, "num_key_value_heads": 4}
    monkeypatch.setitem(decoders.VARIANTS, FOUR_HEADS, ("deepseek_v3", fields))
    make_reference(variant, tmp_path)
    wanted = Driver(load_decoder(tmp_path), blocks=64).greedy(PROMPTS, COUNT)
    ranks = on_ranks(
        lambda context: chosen(tmp_path, context, wanted), tensor=tensor, pipeline=pipeline
    )
    assert ranks[0] == [[wanted[name][step] for name in PROMPTS] for step in range(COUNT)]


@pytest.mark.parametrize(
    ("variant", "layers"), [("llama", 2), (FOUR_HEADS, 3)], ids=["dense", "experts"]
)
def test_a_step_makes_the_exchanges_that_are_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, layers: int
) -> None:
    fields = DEEPSEEK | {"num_attention_heads": 4, "num_key_value_heads": 4}
    monkeypatch.setitem(decoders.VARIANTS, FOUR_HEADS, ("deepseek_v3", fields))
    make_reference(variant, tmp_path)

    def run(context: ParallelContext) -> tuple[Counter[str], Counter[str]]:
        decoder = load_decoder(tmp_path, parallel=context)
        driver = Driver(decoder)
        with torch.no_grad():
            decoder.forward(driver.inputs(PROMPTS), driver.cache)
        return context.traffic.calls, context.traffic.bytes

    tokens, sums = sum(map(len, PROMPTS.values())), 2 * layers + 1
    for calls, sizes in on_ranks(run, tensor=2):
        assert calls == {"all_reduce": sums, "all_gather": 1}
        assert sizes["all_reduce"] == sums * tokens * 48 * 4
        # 97 tokens are padded to 98, 49 for each of two ranks.
        assert sizes["all_gather"] == len(PROMPTS) * 49 * 4
