"""Random arrivals, aborts and tiny pools change no answer and lose no block."""

from __future__ import annotations

import random
from typing import Any

import pytest
from deepseek_api.errors import InferenceError, QueueFullError
from deepseek_engine.generation.requests import GenerationRequest
from deepseek_engine.generation.settings import Speculation
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.generating import (
    Answered,
    alone,
    at_rest,
    drain,
    generate,
    make,
    note,
    planned,
    request,
)
from tests.support.tiny_decoder import VOCABULARY, ScriptedDecoder, TinyDecoder


def drawn(draw: random.Random) -> tuple[GenerationRequest, list[int]]:
    """A request; half of the prompts begin alike, half of the requests are drawn with a seed."""
    prompt = [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 12))]
    if draw.random() < 0.5:
        prompt = [*range(9), *prompt]
    sampling: dict[str, Any] = {"max_tokens": draw.randint(1, 12)}
    if draw.random() < 0.5:
        sampling |= {"temperature": 1.5, "seed": draw.randrange(9), "top_k": draw.choice([0, 5])}
        sampling |= {"repetition_penalty": draw.choice([1.0, 1.3])}
    client, priority = draw.choice("abc"), draw.choice([0, 0, 1])
    return request(client=client, priority=priority, **sampling), prompt


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    blocks=st.integers(8, 16),
    seats=st.integers(1, 6),
    extra=st.integers(0, 12),
    reuse=st.booleans(),
    guesses=st.booleans(),
)
def test_answers_equal_those_of_sequences_that_run_alone(
    seed: int, blocks: int, seats: int, extra: int, reuse: bool, guesses: bool
) -> None:
    draw, model = random.Random(seed), TinyDecoder()
    generator = make(
        model,
        kv_cache_blocks=blocks,
        max_sequences=seats,
        token_budget=seats + extra,
        prefix_reuse=reuse,
        speculative=Speculation(ngram=2, guesses=3) if guesses else None,
    )
    asked = {number: drawn(draw) for number in range(12)}
    waiting, aborted, answers = list(asked), set(), dict[int, Answered]()
    while waiting or generator.has_work():
        while waiting and draw.random() < 0.5:
            number = waiting.pop(0)
            generator.add(number, *asked[number])
        if not generator.has_work():
            continue
        plan = planned(generator)
        result = generator.run(plan)
        if draw.random() < 0.05:
            number = draw.choice(sorted(asked))
            if number not in waiting and not (number in answers and answers[number].last.finish):
                generator.abort(number)
                aborted.add(number)
        note(answers, generator.commit(plan, result))
        used = generator.stats().blocks_used
        assert 0 <= used <= blocks
    for number, (one, prompt) in asked.items():
        expected = alone(model, one, prompt).tokens
        got = answers.get(number, Answered()).tokens
        assert got == (expected[: len(got)] if number in aborted else expected)
    assert at_rest(generator.stats())


def test_ten_thousand_aborts_at_random_moments_bring_every_gauge_back() -> None:
    draw, generator = (
        random.Random(5),
        make(
            ScriptedDecoder(), kv_cache_blocks=40, max_sequences=12, token_budget=48, max_queue=64
        ),
    )
    started, living = 0, set[int]()
    while started < 10_000 or living:
        while started < 10_000 and len(living) < 24:
            prompt = [draw.randrange(2) for _ in range(draw.randint(1, 40))]
            generator.add(started, request(max_tokens=20, client=draw.choice("abc")), prompt)
            living.add(started)
            started += 1
        plan = planned(generator)
        # Before the step is computed, between computing and committing, and after it.
        moments = [[n for n in sorted(living) if draw.random() < 0.25] for _ in range(3)]
        for number in moments[0]:
            generator.abort(number)
        result = generator.run(plan)
        for number in moments[1]:
            generator.abort(number)
        updates = generator.commit(plan, result)
        assert not {update.sequence for update in updates} & {*moments[0], *moments[1]}
        for number in moments[2]:
            generator.abort(number)
        ended = {update.sequence for update in updates if update.finish}
        living -= ended.union(*moments)
    assert at_rest(generator.stats())
    assert not generator.has_work()
    # Nothing is held in secret: a sequence as large as the cache still runs.
    answer = generate(generator, {-1: (request(max_tokens=28), [1] * 100)})[-1]
    assert len(answer.tokens) == 28


TOO_LONG = "The prompt has 32 tokens; prompt and answer together may have 32"
BAD: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "no tokens": ([], {}, "The prompt has no tokens"),
    "negative token": ([1, -1], {}, "has the token -1 at place 1"),
    "unknown token": ([VOCABULARY], {}, f"Tokens of this model are 0 to {VOCABULARY - 1}"),
    "token of another type": ([1.5], {}, "has the token 1.5 at place 0"),
    "huge token": ([1 << 70], {}, "at place 0"),
    "prompt as long as the context": ([1] * 32, {}, TOO_LONG),
    "longer than the context": (
        [1] * 20,
        {"max_tokens": 13},
        "together 33, and the context has 32",
    ),
    "max_tokens of 2^32 - 1": ([1], {"max_tokens": 2**32 - 1}, "together 4294967296"),
    "larger than the cache": (
        [1] * 16,
        {"max_tokens": 10},
        "16 tokens of the prompt and 9 of the answer need 7 blocks of 4; the cache has 6. "
        "Ask for at most 9 tokens.",
    ),
    "prompt larger than the cache": ([1] * 26, {}, "Send a shorter prompt"),
    "min_tokens that cannot be": ([1] * 16, {"min_tokens": 12}, "the answer can have 9"),
    "unknown stop token": ([1], {"stop_token_ids": (99,)}, "stop_token_ids has the token 99"),
    "stop text without a tokenizer": ([1], {"stop": ("a",)}, "has no tokenizer"),
    "text without a tokenizer": ([1], {"text": True}, "has no tokenizer"),
    "unknown adapter": ([1], {"adapter": "x"}, "The adapter 'x' is not loaded. Loaded adapters: a"),
}


@pytest.mark.parametrize(("prompt", "given", "message"), BAD.values(), ids=BAD.keys())
def test_what_can_never_run_is_refused_with_the_reason(
    prompt: list[Any], given: dict[str, Any], message: str
) -> None:
    model = TinyDecoder(context=32)
    generator = make(model, kv_cache_blocks=6, adapters={"a": 0})
    with pytest.raises(InferenceError) as caught:
        generator.add(1, request(**given), prompt)
    assert message in str(caught.value)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert at_rest(generator.stats())
    # The next good request is answered.
    good = request(max_tokens=2)
    assert generate(generator, {1: (good, [1])})[1].tokens == alone(model, good, [1]).tokens


@pytest.mark.parametrize(
    ("prompt", "settings", "tokens"),
    [(4, {}, 28), (4, {"max_tokens": 5}, 5), (4, {"kv_cache_blocks": 2}, 5)],
    ids=["what the context leaves", "what the settings allow", "what the cache holds"],
)
def test_without_max_tokens_an_answer_is_as_long_as_it_can_be(
    prompt: int, settings: dict[str, Any], tokens: int
) -> None:
    generator = make(TinyDecoder(context=32), **settings)
    answer = generate(generator, {1: (request(), [1] * prompt)})[1]
    assert (len(answer.tokens), answer.last.finish) == (tokens, "length")


def test_the_longest_sequence_that_fits_uses_the_last_block_to_its_end() -> None:
    generator = make(TinyDecoder(), kv_cache_blocks=4)
    answer = generate(generator, {1: (request(max_tokens=9), [1] * 8)})[1]
    assert len(answer.tokens) == 9


def test_more_than_the_setting_allows_is_refused() -> None:
    with pytest.raises(InferenceError, match="max_tokens is 6; this model gives at most 5"):
        make(TinyDecoder(), max_tokens=5).add(1, request(max_tokens=6), [1])


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    generator = make(TinyDecoder(), max_queue=2)
    for number in (1, 2):
        generator.add(number, request(max_tokens=1), [1])
    with pytest.raises(QueueFullError) as caught:
        generator.add(3, request(max_tokens=1), [1])
    assert caught.value.retry_after_s > 0
    assert sorted(drain(generator)) == [1, 2]


def test_a_number_that_lives_cannot_be_used_again() -> None:
    generator = make(TinyDecoder())
    generator.add(1, request(max_tokens=1), [1])
    with pytest.raises(ValueError, match="lives already"):
        generator.add(1, request(max_tokens=1), [1])


def test_a_closed_model_fails_its_steps() -> None:
    generator = make(TinyDecoder())
    generator.add(1, request(max_tokens=1), [1])
    plan = planned(generator)
    generator.close()
    with pytest.raises(InferenceError, match="closed") as caught:
        generator.run(plan)
    assert generator.fail(plan, caught.value)[0].error is caught.value
    assert at_rest(generator.stats())
