"""A divided decoder generates the same tokens as a whole one, with the exchanges it claims."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from deepseek_api.errors import ConfigurationError
from deepseek_engine.generation.parallel.context import SINGLE, ParallelContext
from deepseek_engine.generation.parallel.pipeline import run_stages, split_step
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ranks import on_ranks, places
from tests.support.sharded_decoder import Sequences, TinyShape, open_model, write

PROMPTS = [[3, 9, 14, 2, 30], [7], [21, 22, 23, 24, 25, 26, 27, 28, 29]]
COUNT = 4


def generate(folder: Path, context: ParallelContext) -> tuple[list[list[int]], ParallelContext]:
    """Every rank drives itself: only rank 0 sees scores, so that the others get its tokens."""
    model = open_model(folder, context)
    cache = model.make_cache(64, 4)
    tokens = Sequences(PROMPTS).generate(
        lambda inputs: run_stages(model, inputs, cache, context, micro_batches=1), COUNT
    )
    return tokens, context


SHAPES = {
    "heads and vocabulary divide": TinyShape(vocabulary=40),
    "vocabulary does not divide": TinyShape(vocabulary=37),
    "tied scores": TinyShape(tied=True),
    "one head of keys for all": TinyShape(kv_heads=1),
    "experts": TinyShape(experts=4),
    "experts that do not divide": TinyShape(experts=5),
}


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        pytest.param(size, shape, id=f"{size}, {name}")
        for size, names in ((2, SHAPES), (4, ["one head of keys for all", "experts that do not"]))
        for name, shape in SHAPES.items()
        if any(name.startswith(each) for each in names)
    ],
)
def test_tensor_ranks_generate_the_same_tokens(tmp_path: Path, size: int, shape: TinyShape) -> None:
    write(tmp_path, shape)
    wanted, _ = generate(tmp_path, SINGLE)
    answers = on_ranks(lambda context: generate(tmp_path, context)[0], tensor=size)
    assert answers == [wanted] * size


@pytest.mark.parametrize("experts", [0, 4], ids=["dense", "experts"])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_step_makes_two_sums_a_layer_one_for_the_embedding_and_one_gather(
    tmp_path: Path, layers: int, experts: int
) -> None:
    shape = TinyShape(layers=layers, experts=experts, vocabulary=37)
    write(tmp_path, shape)

    def run(context: ParallelContext) -> tuple[Counter[str], Counter[str], int, int]:
        model = open_model(tmp_path, context)
        cache = model.make_cache(64, 4)
        inputs, _ = Sequences(PROMPTS).step(chunk=5)
        run_stages(model, inputs, cache, context, micro_batches=1)
        traffic = context.traffic
        return traffic.calls, traffic.bytes, len(inputs.tokens), len(inputs.logits_rows)

    for calls, sizes, tokens, rows in on_ranks(run, tensor=2):
        assert calls == {"all_reduce": 2 * layers + 1, "all_gather": 1}
        assert sizes["all_reduce"] == (2 * layers + 1) * tokens * shape.width * 4
        # 37 tokens are padded to 38, 19 for each of two ranks.
        assert sizes["all_gather"] == rows * 19 * 4


def test_one_process_exchanges_nothing(tmp_path: Path) -> None:
    write(tmp_path, TinyShape())
    _, context = generate(tmp_path, SINGLE)
    assert not context.traffic.calls


def test_a_rank_holds_its_share_of_weights_and_cache(tmp_path: Path) -> None:
    shape = TinyShape(layers=4, heads=8, kv_heads=8, width=32, inner=64, vocabulary=64)
    write(tmp_path, shape)
    whole = open_model(tmp_path, SINGLE)
    for place in [*places(tensor=4), *places(tensor=2, pipeline=2)]:
        part = open_model(tmp_path, place)
        assert part.bytes_per_block(16) == whole.bytes_per_block(16) / 4
        assert part.weight_bytes == pytest.approx(whole.weight_bytes / 4, rel=0.01)


@pytest.mark.parametrize(
    ("tensor", "pipeline", "micro_batches"),
    [(1, 2, 1), (1, 2, 2), (1, 3, 4), (2, 2, 2)],
    ids=["two stages", "two micro-batches", "more than sequences", "stages of two ranks"],
)
@pytest.mark.parametrize("tied", [False, True], ids=["own scores", "tied scores"])
def test_stages_give_rank_0_the_same_scores(
    tmp_path: Path, tensor: int, pipeline: int, micro_batches: int, tied: bool
) -> None:
    write(tmp_path, TinyShape(layers=3, tied=tied))

    def run(context: ParallelContext) -> list[torch.Tensor | None]:
        model = open_model(tmp_path, context)
        cache = model.make_cache(64, 4)
        sequences, scores = Sequences(PROMPTS), []
        # Chunks of prompts, at first without any score, in the end with one for each sequence.
        for _ in range(4):
            inputs, _ = sequences.step(chunk=3)
            scores.append(run_stages(model, inputs, cache, context, micro_batches=micro_batches))
        return scores

    wanted = run(SINGLE)
    answers = on_ranks(run, tensor=tensor, pipeline=pipeline)
    for given_scores, scores in zip(answers[0], wanted, strict=True):
        torch.testing.assert_close(given_scores, scores, rtol=1e-4, atol=1e-5)
    for others in answers[tensor:]:
        assert others == [None] * 4


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (TinyShape(heads=6, kv_heads=6), "number of attention heads is 6"),
        (TinyShape(heads=12, kv_heads=3), "3 key-value heads"),
        (TinyShape(inner=22), "_proj.weight. is 22"),
        (TinyShape(experts=3), "3 experts, fewer than 4"),
    ],
    ids=["heads", "key-value heads", "feed-forward", "experts"],
)
def test_a_model_that_four_ranks_cannot_share_is_refused(
    tmp_path: Path, shape: TinyShape, message: str
) -> None:
    write(tmp_path, shape)
    for place in places(tensor=4):
        with pytest.raises(ConfigurationError, match=message):
            open_model(tmp_path, place)


@given(
    queries=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    parts=st.integers(1, 10),
    scored=st.data(),
)
def test_micro_batches_are_the_step_cut_between_sequences(
    queries: list[int], parts: int, scored: st.DataObject
) -> None:
    prompts = [[number + 1] * count for number, count in enumerate(queries)]
    inputs, _ = Sequences(prompts).step(chunk=scored.draw(st.integers(1, 9)))
    cut = list(split_step(inputs, parts))
    assert len(cut) <= parts
    for name in ("tokens", "positions", "slots", "context_lengths", "block_tables"):
        whole = torch.cat([getattr(part, name) for part in cut])
        assert torch.equal(whole, getattr(inputs, name))
    wanted = inputs.tokens[inputs.logits_rows]
    assert torch.equal(torch.cat([part.tokens[part.logits_rows] for part in cut]), wanted)
    for part in cut:
        assert int(part.query_starts[0]) == 0
        assert int(part.query_starts[-1]) == len(part.tokens)
        assert part.max_query == int(part.query_starts.diff().max())
        assert part.max_context == int(part.context_lengths.max())
