"""How a model is divided, and which divisions are refused."""

from __future__ import annotations

import pytest
from deepseek_api.errors import ConfigurationError
from deepseek_engine.generation.parallel.context import SINGLE, ParallelContext
from deepseek_engine.generation.parallel.splits import (
    HeadSplit,
    VocabularySplit,
    expert_range,
    split_width,
    stage_layers,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ranks import places


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "expected"),
    [
        pytest.param(8, 8, 2, [(0, 4, 0, 4), (4, 4, 4, 4)], id="a head of keys for each query"),
        pytest.param(8, 2, 2, [(0, 4, 0, 1), (4, 4, 1, 1)], id="groups split"),
        pytest.param(
            8, 2, 4, [(0, 2, 0, 1), (2, 2, 0, 1), (4, 2, 1, 1), (6, 2, 1, 1)], id="keys copied"
        ),
        pytest.param(4, 1, 2, [(0, 2, 0, 1), (2, 2, 0, 1)], id="one head of keys for all"),
        pytest.param(3, 1, 1, [(0, 3, 0, 1)], id="one rank"),
    ],
)
def test_heads_are_divided_and_keys_copied_where_there_are_fewer_than_ranks(
    heads: int, kv_heads: int, size: int, expected: list[tuple[int, ...]]
) -> None:
    splits = [HeadSplit.of(heads, kv_heads, place) for place in places(tensor=size)]
    assert [(s.first, s.count, s.kv_first, s.kv_count) for s in splits] == expected


@pytest.mark.parametrize(
    ("call", "names"),
    [
        pytest.param(lambda c: HeadSplit.of(6, 2, c), ["attention heads is 6", "4"], id="heads"),
        pytest.param(lambda c: HeadSplit.of(12, 3, c), ["3 key-value heads", "4"], id="key heads"),
        pytest.param(lambda c: HeadSplit.of(8, 3, c), ["8 attention", "3 key"], id="groups"),
        pytest.param(
            lambda c: split_width(10, "intermediate_size", c), ["intermediate_size is 10"], id="ff"
        ),
        pytest.param(lambda c: expert_range(3, c), ["3 experts", "4 tensor ranks"], id="experts"),
    ],
)
def test_what_four_ranks_cannot_share_is_refused_with_the_numbers(
    call: object, names: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        call(ParallelContext(tensor_size=4))  # type: ignore[operator]
    assert raised.value.reason == "InvalidParallelism"
    assert all(name in raised.value.message for name in names)
    assert raised.value.hint


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="2 layers, fewer than 3 stages") as raised:
        stage_layers(2, ParallelContext(pipeline_size=3))
    assert raised.value.hint == "Use at most 2 stages."


@pytest.mark.parametrize(
    "fields",
    [{"tensor_rank": 2, "tensor_size": 2}, {"pipeline_rank": -1}, {"tensor_size": 0}],
    ids=["rank too high", "rank negative", "no ranks"],
)
def test_a_rank_outside_its_group_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        ParallelContext(**fields)  # type: ignore[arg-type]


@given(total=st.integers(1, 200), size=st.integers(1, 9))
def test_layers_and_experts_are_shared_completely_and_almost_evenly(total: int, size: int) -> None:
    size = min(size, total)
    stages = [stage_layers(total, place) for place in places(pipeline=size)]
    assert [layer for stage in stages for layer in stage] == list(range(total))
    assert max(map(len, stages)) - min(map(len, stages)) <= 1
    assert [expert_range(total, place) for place in places(tensor=size)] == stages


@given(tokens=st.integers(1, 300), size=st.integers(1, 9))
def test_every_token_belongs_to_one_rank_and_all_ranks_have_as_many_rows(
    tokens: int, size: int
) -> None:
    splits = [VocabularySplit.of(tokens, place) for place in places(tensor=size)]
    assert [t for s in splits for t in range(s.first, s.last)] == list(range(tokens))
    assert len({s.rows for s in splits}) == 1
    assert all(s.first == rank * s.rows for rank, s in enumerate(splits) if s.first < s.last)


def test_one_process_is_first_and_last_of_everything() -> None:
    assert (SINGLE.rank, SINGLE.world_size) == (0, 1)
    assert SINGLE.first_stage
    assert SINGLE.last_stage
