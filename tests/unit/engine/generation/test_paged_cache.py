"""Keys and values in blocks: types, and that no sequence sees another one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_api.errors import ConfigurationError, PrecisionError
from deepseek_engine.generation.decoder.cache import CACHE_DTYPES
from deepseek_engine.generation.weights import load_decoder

from tests.support.checkpoints import llama_tensors, write_checkpoint
from tests.support.decoders import Driver, prompt

EXACT = ("fp32",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("llama"), llama_tensors(torch.float32))


@pytest.mark.parametrize("stored", CACHE_DTYPES)
def test_every_type_of_cache_gives_about_the_same_scores(folder: Path, stored: str) -> None:
    tokens = prompt(30, vocabulary=96)
    plain = Driver(load_decoder(folder)).step({"a": tokens}, rows="all")
    driver = Driver(load_decoder(folder, cache_dtype=stored))
    scores = torch.cat([driver.step({"a": tokens[i : i + 7]}, rows="all") for i in range(0, 30, 7)])
    limit = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 1e-2, "fp8": 0.08, "int8": 0.02}[stored]
    assert (scores - plain).norm() < limit * plain.norm()
    if stored not in EXACT:
        assert not torch.equal(scores, plain)


@pytest.mark.parametrize("stored", CACHE_DTYPES)
def test_scores_do_not_depend_on_how_a_prompt_is_cut(folder: Path, stored: str) -> None:
    """What was rounded is read again, so that a whole prompt sees the same as its chunks."""
    tokens = prompt(26, vocabulary=96)
    decoder = load_decoder(folder, cache_dtype=stored)
    whole = Driver(decoder).step({"a": tokens})
    driver = Driver(decoder, seed=3)
    for start in range(0, 26, 5):
        part = driver.step({"a": tokens[start : start + 5]})
    # Sums in another order may round a cached number the other way.
    assert (part - whole).norm() < (1e-5 if stored in EXACT else 5e-3) * whole.norm()


@pytest.mark.parametrize("stored", CACHE_DTYPES)
def test_a_block_takes_the_bytes_that_are_told(folder: Path, stored: str) -> None:
    decoder = load_decoder(folder, cache_dtype=stored)
    cache = decoder.make_cache(9, 4)
    held = [
        tensor
        for layer in cache.layers
        for store in (layer.keys, layer.values)
        for tensor in (store.data, store.scale)
        if tensor is not None and tensor.ndim > 1
    ]
    assert sum(tensor.nbytes for tensor in held) == 10 * decoder.bytes_per_block(4)
    assert (cache.blocks, cache.block_size) == (9, 4)


@pytest.mark.parametrize("stored", CACHE_DTYPES)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf], ids=["nan", "infinity"])
def test_numbers_that_are_none_stay_within_their_sequence(
    folder: Path, stored: str, poison: float
) -> None:
    """A sequence that failed shares steps with another, then leaves its blocks behind unclean."""
    decoder = load_decoder(folder, cache_dtype=stored)
    tokens = prompt(21, vocabulary=96)
    alone = Driver(decoder, blocks=12).greedy({"a": tokens}, 6)
    driver = Driver(decoder, blocks=12)
    embedding: Any = decoder.embedding
    rows = embedding.weight.data
    kept = rows[95].clone()
    rows[95] = poison
    try:
        scores = driver.step({"bad": [95] * 21, "a": tokens[:9]})
        assert not scores[0].isfinite().any()
        assert scores[1].isfinite().all()
        driver.finish("bad")
        driver.finish("a")
        assert driver.greedy({"a": [t if t != 95 else 0 for t in tokens]}, 6) == alone
    finally:
        rows[95] = kept


def test_a_step_skips_what_has_no_place(folder: Path) -> None:
    """Padding of a recorded step: rows without a slot and a sequence without a context."""
    decoder = load_decoder(folder)
    tokens = prompt(10, vocabulary=96)
    driver, padded = Driver(decoder), Driver(decoder)
    driver.step({"a": tokens[:9]})
    padded.step({"a": tokens[:9]})
    wanted = driver.step({"a": tokens[9:]})
    inputs = padded.inputs({"a": tokens[9:]})
    grown = type(inputs)(
        tokens=torch.cat((inputs.tokens, torch.tensor([0]))),
        positions=torch.cat((inputs.positions, torch.tensor([0]))),
        slots=torch.cat((inputs.slots, torch.tensor([-1]))),
        query_starts=torch.tensor([0, 1, 2], dtype=torch.int32),
        context_lengths=torch.cat((inputs.context_lengths, torch.tensor([0], dtype=torch.int32))),
        block_tables=torch.cat((inputs.block_tables, torch.zeros_like(inputs.block_tables))),
        logits_rows=torch.tensor([0, 1]),
        max_query=1,
        max_context=inputs.max_context,
    )
    scores = decoder.forward(grown, padded.cache)
    torch.testing.assert_close(scores[:1], wanted, rtol=1e-5, atol=1e-5)
    assert scores[1].isfinite().all()


def test_sequences_of_very_different_length_decode_together(folder: Path) -> None:
    decoder = load_decoder(folder)
    prompts = {
        name: prompt(length, seed=length, vocabulary=96)
        for name, length in (("a", 2), ("b", 50), ("c", 17), ("d", 3))
    }
    together = Driver(decoder).greedy(prompts, 9)
    for name, tokens in prompts.items():
        assert together[name] == Driver(decoder, seed=7).greedy({name: tokens}, 9)[name]


def test_an_unknown_type_of_cache_is_refused(folder: Path) -> None:
    with pytest.raises(PrecisionError, match="'fp4'"):
        load_decoder(folder, cache_dtype="fp4")


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_a_cache_without_places_is_refused(folder: Path, shape: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError, match="holds nothing"):
        load_decoder(folder).make_cache(*shape)
