"""The same greedy tokens, whatever the engine does to be fast or to make room."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from deepseek_engine.generation.requests import GenerationRequest
from deepseek_engine.generation.settings import Speculation
from deepseek_engine.generation.steps import DecoderModel, StepInputs
from deepseek_engine.generation.weights import load_decoder

from tests.support.decoders import make_reference
from tests.support.generating import (
    alone,
    at_rest,
    drain,
    generate,
    make,
    note,
    planned,
    request,
    step,
)
from tests.support.tiny_decoder import END, VOCABULARY, TinyDecoder

WAYS: dict[str, dict[str, Any]] = {
    "everything at once": {"prefix_reuse": False, "token_budget": 1024},
    "prompts in chunks": {"prefix_reuse": False, "token_budget": 7, "max_sequences": 5},
    "one token a step": {"prefix_reuse": False, "token_budget": 1, "max_sequences": 1},
    "beginnings reused": {"prefix_reuse": True},
    "hardly any blocks": {"kv_cache_blocks": 20, "prefix_reuse": False},
    "hardly any blocks, reused": {"kv_cache_blocks": 20, "prefix_reuse": True},
    "guessed": {"speculative": Speculation(ngram=2, guesses=3)},
    "everything": {
        "kv_cache_blocks": 20,
        "token_budget": 9,
        "max_sequences": 6,
        "speculative": Speculation(ngram=2, guesses=3),
    },
}


def prompts(count: int, *, shared: int, seed: int = 0) -> list[list[int]]:
    """Prompts of different length with an equal beginning."""
    draw = random.Random(seed)
    start = [draw.randrange(VOCABULARY) for _ in range(shared)]
    return [
        start + [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 30))]
        for _ in range(count)
    ]


def asked() -> dict[int, tuple[GenerationRequest, list[int]]]:
    return {
        number: (request(max_tokens=8 + 3 * number, ignore_eos=True), prompt)
        for number, prompt in enumerate(prompts(8, shared=9))
    }


@dataclass(frozen=True)
class Expected:
    """A model, and what it answers when nothing else runs."""

    model: DecoderModel
    tokens: dict[int, list[int]]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Expected]:
    """The tiny decoder, and real ones with small random weights."""
    models: dict[str, DecoderModel] = {"tiny": TinyDecoder()}
    for name in ("llama", "gemma3"):
        folder = tmp_path_factory.mktemp(name)
        make_reference(name, folder)
        models[name] = load_decoder(folder)
    return {
        name: Expected(model, {n: alone(model, *one).tokens for n, one in asked().items()})
        for name, model in models.items()
    }


@pytest.mark.parametrize("name", ["tiny", "llama", "gemma3"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_tokens_equal_those_of_sequences_that_run_alone(
    way: dict[str, Any], name: str, expected: dict[str, Expected]
) -> None:
    generator = make(expected[name].model, **way)
    answers = generate(generator, asked())
    assert {number: answer.tokens for number, answer in answers.items()} == expected[name].tokens
    assert {answer.last.finish for answer in answers.values()} == {"length"}
    assert at_rest(generator.stats())


def test_tiny_pools_do_preempt_and_the_others_do_not() -> None:
    many = {n: (request(max_tokens=20), p) for n, p in enumerate(prompts(8, shared=9))}
    small = make(TinyDecoder(), **WAYS["hardly any blocks"])
    answers = generate(small, many)
    assert small.stats().preemptions > 0
    assert sum(answers[n].last.preemptions for n in many) == small.stats().preemptions
    large = make(TinyDecoder())
    generate(large, many)
    assert large.stats().preemptions == 0


def test_a_beginning_is_computed_once() -> None:
    generator = make(TinyDecoder())
    prompt = list(range(21))
    first = generate(generator, {1: (request(max_tokens=2), prompt)})[1]
    second = generate(generator, {2: (request(max_tokens=2), prompt)})[2]
    assert first.tokens == second.tokens
    # Five full blocks of four; the last token is computed, because its scores are needed.
    assert (first.last.cached_tokens, second.last.cached_tokens) == (0, 20)
    assert generator.stats().prompt_tokens == 21 + 1
    assert generator.stats().cached_tokens == 20


def test_answers_are_reused_as_well_as_prompts() -> None:
    generator = make(TinyDecoder())
    answer = generate(generator, {1: (request(max_tokens=8), [1, 2, 3])})[1]
    longer = [1, 2, 3, *answer.tokens, 5]
    assert generate(generator, {2: (request(max_tokens=1), longer)})[2].last.cached_tokens == 8


def test_another_adapter_shares_no_blocks() -> None:
    generator = make(TinyDecoder(), adapters={"a": 0})
    prompt = list(range(21))
    generate(generator, {1: (request(max_tokens=2), prompt)})
    answer = generate(generator, {2: (request(max_tokens=2, adapter="a"), prompt)})[2]
    assert answer.last.cached_tokens == 0


def test_a_step_says_which_tokens_use_an_adapter() -> None:
    model, seen = TinyDecoder(), []

    def look(inputs: StepInputs, scores: torch.Tensor) -> torch.Tensor:
        seen.append(None if inputs.adapters is None else inputs.adapters.tolist())
        return scores

    model.after = look
    generator = make(model, adapters={"a": 3})
    generate(generator, {1: (request(max_tokens=1), [1, 2])})
    generate(
        generator,
        {2: (request(max_tokens=1), [1, 2]), 3: (request(max_tokens=1, adapter="a"), [1, 2, 3])},
    )
    assert seen == [None, [-1, -1, 3, 3, 3]]


def test_guessing_takes_fewer_steps_where_text_repeats() -> None:
    # A model that repeats itself: every token is followed by the next number.
    def count_up(inputs: StepInputs, scores: torch.Tensor) -> torch.Tensor:
        follows = (inputs.tokens[inputs.logits_rows] + 1) % 7
        return torch.nn.functional.one_hot(follows, VOCABULARY).float()

    steps = {}
    for guesses in (None, Speculation(ngram=3, guesses=4)):
        model = TinyDecoder()
        model.after = count_up
        generator = make(model, speculative=guesses)
        prompt = [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
        answer = generate(generator, {1: (request(max_tokens=40), prompt)})[1]
        assert answer.tokens == [(3 + n) % 7 for n in range(40)]
        steps[guesses is not None] = model.steps
        stats = generator.stats()
    assert steps == {False: 40, True: 9}
    assert stats.guessed_tokens == stats.accepted_tokens == 31


def test_an_end_token_ends_and_is_reported() -> None:
    model = TinyDecoder(ends=frozenset({END}))
    model.after = lambda inputs, scores: scores.index_fill(1, torch.tensor([END]), 1e3)
    answer = generate(make(model), {1: (request(max_tokens=9), [1])})[1]
    assert answer.tokens == [END]
    assert (answer.last.finish, answer.last.matched_stop) == ("stop", END)


def test_ignoring_end_tokens_goes_on_to_the_limit() -> None:
    model = TinyDecoder(ends=frozenset({END}))
    model.after = lambda inputs, scores: scores.index_fill(1, torch.tensor([END]), 1e3)
    answer = generate(make(model), {1: (request(max_tokens=9, ignore_eos=True), [1])})[1]
    assert answer.tokens == [END] * 9
    assert answer.last.finish == "length"


def test_end_tokens_are_not_chosen_before_min_tokens() -> None:
    model = TinyDecoder(ends=frozenset({END}))
    model.after = lambda inputs, scores: scores.index_fill(1, torch.tensor([END]), 1e3)
    answer = generate(make(model), {1: (request(max_tokens=9, min_tokens=4), [1])})[1]
    assert len(answer.tokens) == 5
    assert answer.tokens.index(END) == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_scores_that_are_not_numbers_fail_their_request_alone(bad: float) -> None:
    model = TinyDecoder()
    model.after = lambda inputs, scores: torch.where(
        (inputs.tokens[inputs.logits_rows] == 13)[:, None], bad, scores
    )
    generator = make(model)
    good = (request(max_tokens=1), [1, 2, 3])
    answers = generate(generator, {1: (request(max_tokens=1), [1, 2, 13]), 2: good})
    assert getattr(answers[1].last.error, "reason", "") == "InvalidScores"
    assert answers[1].tokens == []
    assert answers[2].last.error is None
    assert answers[2].tokens == alone(TinyDecoder(), *good).tokens
    assert at_rest(generator.stats())


def test_a_step_that_raises_ends_its_sequences_and_the_others_go_on() -> None:
    model = TinyDecoder()
    generator = make(model, max_sequences=1)
    generator.add(1, request(max_tokens=3), [1, 2])
    generator.add(2, request(max_tokens=3), [3, 4])
    plan = planned(generator)
    updates = generator.fail(plan, RuntimeError("/secret/path"))
    assert [update.sequence for update in updates] == [1]
    assert getattr(updates[0].error, "reason", "") == "StepFailed"
    assert "secret" not in str(updates[0].error)
    assert drain(generator)[2].tokens == alone(TinyDecoder(), request(max_tokens=3), [3, 4]).tokens
    assert at_rest(generator.stats())


def test_an_aborted_sequence_is_silent_and_its_blocks_come_back_with_the_step() -> None:
    generator = make(TinyDecoder())
    generator.add(1, request(max_tokens=9), [1, 2, 3])
    plan = planned(generator)
    result = generator.run(plan)
    generator.abort(1)
    generator.abort(1)
    generator.abort(99)
    assert generator.stats().blocks_used == 1
    assert generator.commit(plan, result) == []
    assert at_rest(generator.stats())
    assert not generator.has_work()


def test_a_number_can_be_used_again_while_its_aborted_step_runs() -> None:
    generator = make(TinyDecoder())
    generator.add(1, request(max_tokens=9), [1, 2, 3])
    plan = planned(generator)
    generator.abort(1)
    generator.add(1, request(max_tokens=2), [4, 5])
    assert generator.commit(plan, generator.run(plan)) == []
    answers = drain(generator)
    assert answers[1].tokens == alone(TinyDecoder(), request(max_tokens=2), [4, 5]).tokens


def test_a_sequence_joins_while_others_run() -> None:
    model = TinyDecoder()
    generator = make(model)
    answers: dict[int, Any] = {}
    generator.add(1, request(max_tokens=12), [1, 2, 3])
    for _ in range(4):
        note(answers, step(generator))
    generator.add(2, request(max_tokens=3), [7, 8])
    drain(generator, answers)
    assert answers[1].tokens == alone(model, request(max_tokens=12), [1, 2, 3]).tokens
    assert answers[2].tokens == alone(model, request(max_tokens=3), [7, 8]).tokens
