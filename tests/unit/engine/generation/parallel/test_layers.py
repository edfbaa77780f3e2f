"""Divided layers compute what whole ones do, with as few exchanges as they claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from deepseek_engine.generation.parallel.collectives import receive, send
from deepseek_engine.generation.parallel.context import SINGLE, ParallelContext
from deepseek_engine.generation.parallel.layers import (
    MixtureOfExperts,
    QkvSplit,
    RowLinear,
    VocabularyEmbedding,
    VocabularyLogits,
)
from deepseek_engine.generation.parallel.slices import Cut, cut_tensor
from deepseek_engine.generation.parallel.splits import (
    VocabularySplit,
    expert_range,
    split_width,
)
from torch import nn

from tests.support.ranks import on_ranks

SIZES = pytest.mark.parametrize("size", [1, 2, 4])


def weight(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(matrix: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(matrix, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def columns(matrix: torch.Tensor, context: ParallelContext) -> torch.Tensor:
    first, last = split_width(matrix.shape[0], "width", context)
    return matrix[first:last]


def vocabulary_rows(matrix: torch.Tensor, context: ParallelContext) -> torch.Tensor:
    split = VocabularySplit.of(len(matrix), context)
    own = split.last - split.first
    return cut_tensor(matrix, Cut(0, ((split.first, split.last),), split.rows - own))


def same_everywhere(
    compute: Callable[[ParallelContext], Any], size: int, wanted: torch.Tensor
) -> list[Any]:
    """Run on every rank, compare each answer, give the contexts' traffic."""

    def run(context: ParallelContext) -> tuple[torch.Tensor, Any]:
        return compute(context), context.traffic

    results = on_ranks(run, tensor=size)
    for answer, _ in results:
        torch.testing.assert_close(answer, wanted, rtol=1e-5, atol=1e-5)
    return [traffic for _, traffic in results]


@SIZES
def test_a_column_and_a_row_product_need_one_sum(size: int) -> None:
    up, down, bias, hidden = weight(16, 8), weight(8, 16), weight(8, seed=1), weight(3, 8)
    wanted = torch.relu(hidden @ up.T) @ down.T + bias

    def compute(context: ParallelContext) -> torch.Tensor:
        first, last = split_width(16, "width", context)
        row = RowLinear(product(down[:, first:last]), context, bias=bias)
        answer: torch.Tensor = row(torch.relu(product(columns(up, context))(hidden)))
        return answer

    for traffic in same_everywhere(compute, size, wanted):
        assert dict(traffic.calls) == ({} if size == 1 else {"all_reduce": 1})
        assert traffic.bytes["all_reduce"] == (0 if size == 1 else 3 * 8 * 4)


def test_a_bias_that_every_rank_would_add_is_refused() -> None:
    with pytest.raises(ValueError, match="once"):
        RowLinear(product(weight(4, 4), bias=weight(4)), SINGLE)
    with pytest.raises(ValueError, match="once"):
        RowLinear(product(weight(4, 4)), SINGLE, bias=weight(4), reduce=False)


@SIZES
@pytest.mark.parametrize("tokens", [8, 11, 5], ids=["divides", "does not", "a rank left empty"])
def test_an_embedding_is_one_sum_whatever_the_vocabulary(size: int, tokens: int) -> None:
    table = weight(tokens, 6)
    asked = torch.arange(tokens).flip(0)

    def compute(context: ParallelContext) -> torch.Tensor:
        rows = vocabulary_rows(table, context)
        answer: torch.Tensor = VocabularyEmbedding(rows, tokens, context)(asked)
        return answer

    for traffic in same_everywhere(compute, size, table[asked]):
        assert dict(traffic.calls) == ({} if size == 1 else {"all_reduce": 1})


def test_weights_that_are_not_numbers_stay_with_their_tokens() -> None:
    table = weight(4, 3)
    table[0] = torch.nan

    def compute(context: ParallelContext) -> torch.Tensor:
        rows = vocabulary_rows(table, context)
        answer: torch.Tensor = VocabularyEmbedding(rows, 4, context)(torch.tensor([1, 2, 3]))
        return answer

    same_everywhere(compute, 2, table[1:])


@SIZES
@pytest.mark.parametrize("tokens", [8, 11, 5], ids=["divides", "does not", "a rank left empty"])
def test_scores_are_one_gather_and_padding_is_never_told(size: int, tokens: int) -> None:
    table, hidden = weight(tokens, 6), weight(2, 6, seed=3)

    def compute(context: ParallelContext) -> torch.Tensor:
        head = VocabularyLogits(product(vocabulary_rows(table, context)), tokens, context)
        answer: torch.Tensor = head(hidden)
        return answer

    rows = -(-tokens // size)
    for traffic in same_everywhere(compute, size, hidden @ table.T):
        assert dict(traffic.calls) == ({} if size == 1 else {"all_gather": 1})
        assert traffic.bytes["all_gather"] == (0 if size == 1 else 2 * rows * 4)


@SIZES
def test_experts_are_computed_where_they_are_and_summed_once_with_shared_ones(size: int) -> None:
    experts = [weight(6, 6, seed=seed) for seed in range(5)]
    up, down, hidden = weight(8, 6, seed=7), weight(6, 8, seed=8), weight(4, 6, seed=9)
    chosen = torch.tensor([[0, 4], [1, 2], [3, 0], [4, 3]])
    weights = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    mixed = [
        sum(weights[t, k] * (hidden[t] @ experts[int(chosen[t, k])].T) for k in range(2))
        for t in range(4)
    ]
    wanted = torch.stack(mixed) + (hidden @ up.T) @ down.T  # type: ignore[arg-type]

    def compute(context: ParallelContext) -> torch.Tensor:
        first, last = split_width(8, "width", context)
        shared = nn.Sequential(
            product(columns(up, context)),
            RowLinear(product(down[:, first:last]), context, reduce=False),
        )
        own = nn.ModuleList([product(experts[n]) for n in expert_range(5, context)])
        mixture = MixtureOfExperts(own, total=5, context=context, shared=shared)
        answer: torch.Tensor = mixture(hidden, chosen, weights)
        return answer

    for traffic in same_everywhere(compute, size, wanted):
        assert dict(traffic.calls) == ({} if size == 1 else {"all_reduce": 1})


def test_experts_of_another_rank_are_refused() -> None:
    with pytest.raises(ValueError, match="1 experts given, 2 belong here"):
        MixtureOfExperts(nn.ModuleList([nn.Identity()]), total=2, context=SINGLE)


def test_a_fused_product_gives_queries_then_keys_then_values() -> None:
    fused = QkvSplit(nn.Identity(), heads=2, kv_heads=1, head_size=3)
    query, key, value = fused(torch.arange(24).view(2, 12))
    assert query[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert key[1].tolist() == [[18, 19, 20]]
    assert value[1].tolist() == [[21, 22, 23]]


def test_stages_hand_tensors_on_and_count_them() -> None:
    def run(context: ParallelContext) -> tuple[list[float], dict[str, int]]:
        tensor = torch.arange(4.0)
        if context.first_stage:
            send(tensor, 1, context).wait()
        else:
            kind = {"dtype": torch.float32, "device": torch.device("cpu")}
            tensor = receive((4,), 0, context, **kind) + 1  # type: ignore[arg-type]
        return tensor.tolist(), dict(context.traffic.bytes)

    assert on_ranks(run, pipeline=2) == [
        ([0.0, 1.0, 2.0, 3.0], {"send": 16}),
        ([1.0, 2.0, 3.0, 4.0], {"receive": 16}),
    ]


def test_a_rank_without_a_group_says_so() -> None:
    layer = RowLinear(product(weight(4, 4)), ParallelContext(tensor_size=2))
    with pytest.raises(ValueError, match="process group"):
        layer(weight(1, 4))
