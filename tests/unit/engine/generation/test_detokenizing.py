"""Text comes in complete characters and adds up to what decoding everything at once gives."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from deepseek_engine.generation.detokenizing import Detokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.support.tokenizer import byte_fallback_tokenizer, byte_level_tokenizer

MAKERS = {"byte level": byte_level_tokenizer, "byte fallback": byte_fallback_tokenizer}


@functools.cache
def tokenizer(kind: str) -> Any:
    return Tokenizer.from_str(MAKERS[kind]().decode())


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=20))
def test_pieces_add_up_to_the_text(kind: str, text: str) -> None:
    made = tokenizer(kind)
    # In between, so that the decoder's treatment of a text's beginning does not matter.
    tokens = made.encode("x" + text + "x", add_special_tokens=False).ids
    one = Detokenizer(made, made.encode("y", add_special_tokens=False).ids)
    pieces = [one.feed(token) for token in tokens]
    assert "".join(pieces) == made.decode(made.encode("yx" + text + "x").ids)[1:]
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_tokens_give_text_and_never_an_error(kind: str, data: st.DataObject) -> None:
    made = tokenizer(kind)
    numbers = st.integers(0, made.get_vocab_size() - 1)
    tokens = data.draw(st.lists(numbers, max_size=40))
    one = Detokenizer(made, tokens[:3])
    assert all(isinstance(one.feed(token), str) for token in tokens)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_character_of_several_tokens_comes_with_the_last_one(kind: str) -> None:
    made = tokenizer(kind)
    tokens = made.encode("😀", add_special_tokens=False).ids[-4:]
    one = Detokenizer(made, [])
    assert [one.feed(token) for token in tokens] == ["", "", "", "😀"]


@pytest.mark.parametrize("kind", MAKERS)
def test_the_space_between_prompt_and_answer_stays(kind: str) -> None:
    made = tokenizer(kind)
    prompt, both = made.encode("hello").ids, made.encode("hello world").ids
    one = Detokenizer(made, prompt)
    assert "".join(one.feed(token) for token in both[len(prompt) :]) == " world"


def test_special_tokens_have_no_text() -> None:
    made = tokenizer("byte level")
    assert Detokenizer(made, []).feed(made.token_to_id("<eos>")) == ""


def test_bytes_that_are_no_text_are_not_waited_for_without_end() -> None:
    made = tokenizer("byte fallback")
    one = Detokenizer(made, [])
    bad = made.token_to_id("<0xFF>")
    pieces = [one.feed(bad) for _ in range(30)]
    assert "".join(pieces) == "\ufffd" * 27
    assert max(len(piece) for piece in pieces) == 9
