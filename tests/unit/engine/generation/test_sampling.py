"""Tokens are chosen with the distribution that was asked for, and for each row by itself."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, ClassVar

import pytest
import torch
from deepseek_engine.generation.requests import SamplingParameters
from deepseek_engine.generation.sampling import Choice, Row, Sampler, filters
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as reference

VOCABULARY = 40
CPU = torch.device("cpu")


def row(
    position: int = 7,
    *,
    prompt: tuple[int, ...] = (1,),
    made: tuple[int, ...] = (),
    seed: int = 0,
    ends: frozenset[int] = frozenset(),
    **sampling: Any,
) -> Row:
    choice = Choice(SamplingParameters(**sampling), prompt, seed=seed, ends=ends)
    for token in made:
        choice.made(token)
    return Row(choice, position)


def scores(rows: int = 1, *, seed: int = 0, vocabulary: int = VOCABULARY) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=draw) * 3


def sample(given: torch.Tensor, *rows: Row) -> list[int]:
    return [pick.token for pick in Sampler(CPU).sample(given.clone(), rows)]


def warped(given: torch.Tensor, **sampling: Any) -> torch.Tensor:
    """Probabilities as the transformers library makes them from the same parameters."""
    ids = torch.zeros(len(given), 1, dtype=torch.long)
    processors: list[Any] = [reference.TemperatureLogitsWarper(sampling.get("temperature", 1.0))]
    if "top_k" in sampling:
        processors.append(reference.TopKLogitsWarper(sampling["top_k"]))
    if "top_p" in sampling:
        processors.append(reference.TopPLogitsWarper(sampling["top_p"]))
    if "min_p" in sampling:
        processors.append(reference.MinPLogitsWarper(sampling["min_p"]))
    for process in processors:
        given = process(ids, given)
    return given.softmax(dim=1)


def kept(given: torch.Tensor, **sampling: Any) -> torch.Tensor:
    """Which tokens our thresholds leave."""
    asked = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **sampling}
    scaled: torch.Tensor = given / asked["temperature"]
    count = len(given)
    least = filters.threshold(
        scaled,
        top_k=torch.full((count,), asked["top_k"]),
        top_p=torch.full((count,), asked["top_p"]),
        min_p=torch.full((count,), asked["min_p"]),
        most_k=asked["top_k"],
        nucleus=asked["top_p"] < 1.0,
    )
    return scaled >= least[:, None]


FILTERS = [
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 5},
    {"top_p": 0.5},
    {"top_p": 1e-4},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 7, "top_p": 0.8},
    {"temperature": 1.7, "top_k": 9, "top_p": 0.9, "min_p": 0.05},
]


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_the_filters_leave_what_those_of_transformers_leave(sampling: dict[str, Any]) -> None:
    given = scores(64)
    assert torch.equal(kept(given, **sampling), warped(given, **sampling) > 0)


def test_a_nucleus_larger_than_the_first_candidates_is_found_all_the_same() -> None:
    given = scores(3, vocabulary=5000) / 10
    assert torch.equal(kept(given, top_p=0.95), warped(given, top_p=0.95) > 0)
    assert kept(given, top_p=0.95).sum(dim=1).min() > 1024


def test_tokens_of_equal_score_stay_or_go_together() -> None:
    given = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0]])
    expected = [[True, False, True, True, True, False]]
    assert kept(given, top_k=2).tolist() == expected
    assert kept(given, top_p=0.6).tolist() == expected


@pytest.mark.parametrize("sampling", [{}, *FILTERS], ids=str)
def test_draws_have_the_asked_distribution(sampling: dict[str, Any]) -> None:
    given, count = scores(seed=3) / 2, 20_000
    choice = Choice(SamplingParameters(**sampling), [1], seed=11)
    rows = [Row(choice, position) for position in range(count)]
    seen = Counter(sample(given.expand(count, -1), *rows))
    expected = (warped(given, **sampling)[0] * count).tolist()
    # Rare tokens are taken together: chi-square needs a handful in every class.
    rare = [token for token, mean in enumerate(expected) if mean < 10]
    classes = [[t] for t in range(VOCABULARY) if t not in rare] + ([rare] if rare else [])
    pairs = [(sum(seen[t] for t in c), sum(expected[t] for t in c)) for c in classes]
    assert all(got == 0 for got, mean in pairs if mean == 0)
    pairs = [pair for pair in pairs if pair[1] > 0]
    statistic = sum((got - mean) ** 2 / mean for got, mean in pairs)
    degrees = len(pairs) - 1
    # Mean plus four standard deviations of chi-square; the seed is fixed, so this is no lottery.
    assert statistic <= degrees + 4 * math.sqrt(2 * max(1, degrees))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_row_gives_the_same_whatever_else_is_in_the_batch(data: st.DataObject) -> None:
    def some() -> Row:
        greedy = data.draw(st.booleans())
        return row(
            data.draw(st.integers(0, 99)),
            made=(3, 3, 5),
            seed=data.draw(st.integers(0, 2**64 - 1)),
            ends=frozenset({4}),
            min_tokens=data.draw(st.sampled_from([0, 9])),
            temperature=0.0 if greedy else data.draw(st.floats(0.1, 5)),
            top_k=data.draw(st.sampled_from([0, 3, 1000])),
            top_p=data.draw(st.sampled_from([1.0, 0.6])),
            min_p=data.draw(st.sampled_from([0.0, 0.1])),
            presence_penalty=data.draw(st.sampled_from([0.0, 1.0])),
            logprobs=data.draw(st.sampled_from([None, 0, 3])),
        )

    given = scores(6, seed=data.draw(st.integers(0, 99)))
    rows = [some() for _ in range(6)]
    together = Sampler(CPU).sample(given.clone(), rows)
    single = [Sampler(CPU).sample(given[i : i + 1].clone(), rows[i : i + 1])[0] for i in range(6)]
    assert together == single


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_a_seed_repeats_its_draws_and_positions_differ(seed: int) -> None:
    given = torch.zeros(200, VOCABULARY)
    first = sample(given, *[row(position, seed=seed) for position in range(200)])
    again = sample(given, *[row(position, seed=seed) for position in range(200)])
    assert first == again
    assert len(set(first)) > VOCABULARY * 0.9


def test_other_seeds_draw_otherwise() -> None:
    given = torch.zeros(64, VOCABULARY)
    draws = [sample(given, *[row(p, seed=seed) for p in range(64)]) for seed in (1, 2)]
    assert draws[0] != draws[1]


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    given, prompt, made = scores(8), (1, 2, 2), (9, 3)
    ids = torch.tensor([[*prompt, *made]]).expand(8, -1)
    expected = reference.RepetitionPenaltyLogitsProcessor(penalty)(ids, given.clone())
    rows = [
        row(prompt=prompt, made=made, temperature=0.0, repetition_penalty=penalty) for _ in range(8)
    ]
    changed = given.clone()
    picks = Sampler(CPU).sample(changed, rows)
    torch.testing.assert_close(changed, expected)
    assert [pick.token for pick in picks] == expected.argmax(dim=1).tolist()


def test_presence_and_frequency_look_at_the_answer_only() -> None:
    given = scores()
    changed = given.clone()
    Sampler(CPU).sample(
        changed, [row(prompt=(1, 2), made=(2, 5, 5), presence_penalty=0.5, frequency_penalty=0.25)]
    )
    expected = given.clone()
    expected[0, 2] -= 0.5 + 0.25
    expected[0, 5] -= 0.5 + 2 * 0.25
    torch.testing.assert_close(changed, expected)


def test_occurrences_are_counted_beyond_the_first_allocation() -> None:
    made = tuple(range(200)) * 2
    choice = Choice(SamplingParameters(frequency_penalty=1.0), [0], seed=0)
    for token in made:
        choice.made(token)
    assert choice.occurrences is not None
    counted = dict(
        zip(choice.occurrences.tokens.tolist(), choice.occurrences.counts.tolist(), strict=True)
    )
    assert counted == dict(Counter(made))


def test_excluded_tokens_are_never_chosen() -> None:
    given = scores()
    best = int(given.argmax())
    for temperature in (0.0, 1.0):
        picked = sample(
            given, row(ends=frozenset({best}), min_tokens=1, temperature=temperature, top_k=2)
        )
        assert picked != [best]


def test_greedy_takes_the_first_of_equal_scores() -> None:
    assert sample(torch.tensor([[1.0, 2.0, 2.0]]), row(temperature=0.0)) == [1]


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "drawn"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, "all -inf"], ids=str)
def test_scores_that_are_not_numbers_give_no_token_in_their_row_alone(
    bad: float | str, temperature: float
) -> None:
    given = scores(3)
    if isinstance(bad, str):
        given[1] = -math.inf
    else:
        given[1, 5] = bad
    asked: dict[str, Any] = {"temperature": temperature, "logprobs": 1, "presence_penalty": 1.0}
    picks = Sampler(CPU).sample(given, [row(**asked) for _ in range(3)])
    assert [pick.failed for pick in picks] == [False, True, False]
    assert picks[1].logprob is None


def test_tokens_that_cannot_be_are_no_failure() -> None:
    given = scores()
    given[0, ::2] = -math.inf
    assert sample(given, row())[0] % 2 == 1


@pytest.mark.parametrize("top", [0, 3, 20])
def test_log_probabilities_are_those_of_the_model_itself(top: int) -> None:
    given = scores(2)
    expected = given.log_softmax(dim=1)
    asked: dict[str, Any] = {
        "temperature": 0.3,
        "top_k": 2,
        "repetition_penalty": 1.5,
        "made": (3,),
    }
    picks = Sampler(CPU).sample(
        given.clone(), [row(**asked, logprobs=top), row(**asked, logprobs=None)]
    )
    told = picks[0].logprob
    assert told is not None
    assert told.token_id == picks[0].token
    assert told.logprob == pytest.approx(float(expected[0, told.token_id]), abs=1e-5)
    likeliest = expected[0].topk(top)
    assert [token for token, _ in told.top] == likeliest.indices.tolist()
    assert [value for _, value in told.top] == pytest.approx(likeliest.values.tolist(), abs=1e-5)
    assert picks[1].logprob is None


class Watched(torch.Tensor):
    """Notes what is called with it."""

    calls: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls.append(func.__name__)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def test_a_batch_of_greedy_rows_is_one_reduction() -> None:
    given = scores(4).as_subclass(Watched)
    rows = [row(temperature=0.0) for _ in range(4)]
    Watched.calls.clear()
    Sampler(CPU).sample(given, rows)
    assert Watched.calls == ["max"]
