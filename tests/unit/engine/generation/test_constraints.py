"""Text matches what was asked for, and what is asked for cannot cost too much."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import jsonschema
import pytest
import torch
from deepseek_api.errors import InferenceError
from deepseek_engine.generation import constraints
from deepseek_engine.generation.constraints import ConstraintCompiler
from deepseek_engine.generation.requests import Constraint
from tokenizers import Tokenizer

from tests.support.generating import at_rest, generate, make, request
from tests.support.tiny_decoder import TinyDecoder
from tests.support.tokenizer import byte_level_tokenizer

END = 0
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{1,5}$"},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
    },
    "required": ["name", "sizes"],
    "additionalProperties": False,
}


@functools.cache
def tokenizer() -> Any:
    return Tokenizer.from_str(byte_level_tokenizer().decode())


def compiler(**given: Any) -> ConstraintCompiler:
    made = tokenizer()
    size = made.get_vocab_size()
    return ConstraintCompiler(made, vocabulary=size, end_tokens=frozenset({END}), **given)


def answer(constraint: Constraint, *, seed: int = 0, **sampling: Any) -> Any:
    """What a model with random scores writes under a constraint."""
    model = TinyDecoder(vocabulary=320, ends=frozenset({END}))
    draw = torch.Generator().manual_seed(seed)
    # A flat distribution: everything that is allowed gets its turn.
    model.after = lambda inputs, scores: torch.rand(scores.shape, generator=draw)
    asked = request(text=True, constraint=constraint, seed=seed, **{"temperature": 1.0, **sampling})
    generator = make(model, tokenizer(), kv_cache_blocks=64)
    generator.prepare(asked)
    found = generate(generator, {1: (asked, [1, 2])})[1]
    assert at_rest(generator.stats())
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("expression", [r"[a-f]{3}-\d{2}", r"(yes|no|grün)", r"x*yz?"])
def test_text_matches_a_regular_expression(expression: str, seed: int) -> None:
    found = answer(Constraint(kind="regex", definition=expression), seed=seed, max_tokens=60)
    if found.last.finish == "stop":
        assert re.fullmatch(expression, found.text)
    else:
        assert expression == r"x*yz?"  # the only one that may be longer


@pytest.mark.parametrize("seed", range(5))
def test_text_matches_a_schema(seed: int) -> None:
    constraint = Constraint(kind="json_schema", definition=json.dumps(SCHEMA))
    found = answer(constraint, seed=seed, max_tokens=250)
    if found.last.finish == "stop":
        jsonschema.validate(json.loads(found.text), SCHEMA)
    else:
        # White space is allowed between values and has no end.
        assert found.text.lstrip().startswith("{")


def test_greedy_text_matches_too_and_ends_when_nothing_may_follow() -> None:
    found = answer(Constraint(kind="regex", definition="abc"), temperature=0.0)
    assert (found.text, found.last.finish, found.last.matched_stop) == ("abc", "stop", None)


def test_any_object_begins_with_a_brace() -> None:
    found = answer(Constraint(kind="json_object"), max_tokens=8)
    assert found.text.lstrip()[:1] in ("{", "")


def test_requests_of_one_batch_follow_their_own_constraints() -> None:
    model = TinyDecoder(vocabulary=320, ends=frozenset({END}))
    generator = make(model, tokenizer())
    asked = {
        n: (request(text=True, constraint=Constraint(kind="regex", definition=text)), [1])
        for n, text in enumerate(["abc", "xyz", "abc"])
    }
    asked[9] = (request(text=True, max_tokens=3), [1])
    answers = generate(generator, asked)
    assert [answers[n].text for n in range(3)] == ["abc", "xyz", "abc"]
    alone = generate(make(model, tokenizer()), {9: asked[9]})
    assert answers[9].tokens == alone[9].tokens


BAD = {
    "no expression": (Constraint(kind="regex", definition="(["), "invalid regex"),
    "look-around": (Constraint(kind="regex", definition="(?=a)b"), "invalid regex"),
    "no JSON": (Constraint(kind="json_schema", definition="{"), "no valid JSON"),
    "no schema": (
        Constraint(kind="json_schema", definition='{"type": "objekt"}'),
        "Invalid type: objekt",
    ),
    "a keyword that cannot be followed": (
        Constraint(kind="json_schema", definition='{"not": {"type": "string"}}'),
        'Unimplemented keys: ["not"]',
    ),
    "reference to elsewhere": (
        Constraint(kind="json_schema", definition='{"$ref": "http://example.com/x"}'),
        "cannot be used",
    ),
    "nothing matches": (
        Constraint(kind="json_schema", definition="false"),
        "Unsatisfiable schema",
    ),
    "too large": (
        Constraint(kind="regex", definition="a" * (constraints.MAX_DEFINITION + 1)),
        "65537 characters; at most 65536",
    ),
}


@pytest.mark.parametrize(("constraint", "message"), BAD.values(), ids=BAD.keys())
def test_a_wrong_definition_is_refused_with_the_cause(constraint: Constraint, message: str) -> None:
    one = compiler()
    for _ in range(2):  # the second time from memory
        with pytest.raises(InferenceError) as caught:
            one.grammar(constraint)
        assert message in str(caught.value)
        assert caught.value.code == "INVALID_ARGUMENT"
        assert "\n" not in str(caught.value)


def test_what_takes_too_long_to_prepare_is_refused_and_not_tried_again() -> None:
    ticks = iter([0.0, constraints.PREPARE_LIMIT_S + 0.1])
    one = compiler(clock=lambda: next(ticks))
    for _ in range(2):
        with pytest.raises(InferenceError, match="more than 1 s to prepare"):
            one.grammar(Constraint(kind="regex", definition="abc"))


def test_prepared_definitions_do_not_pile_up() -> None:
    one = compiler()
    for number in range(200):
        one.grammar(Constraint(kind="regex", definition=f"a{number}"))
    assert len(one._prepared) <= 64


def test_a_text_that_becomes_too_complex_fails_its_request_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(constraints._LIMITS, "step_lexer_fuel", 100)
    monkeypatch.setitem(constraints._LIMITS, "max_lexer_states", 40)
    model = TinyDecoder(vocabulary=320, ends=frozenset({END}))
    generator = make(model, tokenizer())
    hard = Constraint(kind="regex", definition="[ab]*a[ab]{12}c")
    asked = {
        1: (request(text=True, constraint=hard, max_tokens=60), [1]),
        2: (request(max_tokens=60), [1]),
    }
    answers = generate(generator, asked)
    assert getattr(answers[1].last.error, "reason", "") == "ConstraintTooComplex"
    assert len(answers[2].tokens) == 60
    assert at_rest(generator.stats())


def test_without_a_tokenizer_a_constraint_is_refused() -> None:
    generator = make(TinyDecoder())
    with pytest.raises(InferenceError, match="has no tokenizer"):
        generator.add(1, request(constraint=Constraint(kind="json_object")), [1])
