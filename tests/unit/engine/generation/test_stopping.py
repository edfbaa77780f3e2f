"""Where answers end, and that nobody sees a part of a stop text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from deepseek_engine.generation.requests import FinishReason, SamplingParameters
from deepseek_engine.generation.stopping import Answer, Progress, StopTexts
from hypothesis import given, settings
from hypothesis import strategies as st

TEXTS = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3)


class Letters:
    """Token n is the n-th letter; token 9 has no text of its own yet."""

    def feed(self, token: int) -> str:
        return "" if token == 9 else "abcdefgh"[token]


def answer(*, max_tokens: int = 100, text: bool = True, **sampling: Any) -> Answer:
    parameters = SamplingParameters(**sampling)
    return Answer(
        parameters,
        max_tokens=max_tokens,
        end_tokens=frozenset({7}),
        source=Letters(),
        text=text,
    )


def follow(one: Answer, tokens: Sequence[int]) -> tuple[str, Progress, int]:
    """All text, the last progress, and how many tokens were taken."""
    text, progress = "", Progress()
    for count, token in enumerate(tokens, start=1):
        progress = one.feed(token)
        text += progress.text
        if progress.finish is not None:
            return text, progress, count
    return text, progress, len(tokens)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, stops=STOPS, cuts=st.lists(st.integers(0, 40), max_size=12))
def test_pieces_give_what_the_whole_text_gives(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    one, given, found = StopTexts(stops), "", None
    for start, end in itertools.pairwise(places):
        part, found = one.feed(text[start:end])
        given += part
        if found is not None:
            break
    else:
        given += one.flush()
    first = min((text.find(stop) for stop in stops if stop in text), default=None)
    if found is None:
        assert first is None
        assert given == text
    else:
        # A longer piece may hold a stop text that begins earlier and ends later.
        assert text.startswith(given + found)
        assert all(stop not in given for stop in stops)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, stops=STOPS)
def test_text_that_may_begin_a_stop_is_held_and_no_more_than_that(
    text: str, stops: list[str]
) -> None:
    one, given = StopTexts(stops), ""
    for letter in text:
        part, found = one.feed(letter)
        given += part
        if found is not None:
            return
    held = one.flush()
    assert given + held == text
    assert held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("tokens", "sampling", "text", "finish", "matched", "used"),
    [
        ([0, 1, 7, 2], {}, "ab", "stop", 7, 3),
        ([0, 1, 7, 2], {"ignore_eos": True}, "abhc", None, None, 4),
        ([0, 1, 2], {"stop_token_ids": (1,)}, "a", "stop", 1, 2),
        ([0, 1, 2, 3], {"stop": ("bc",)}, "a", "stop", "bc", 3),
        ([0, 9, 1, 2], {"stop": ("ab",)}, "", "stop", "ab", 3),
        ([0, 1, 7], {"stop": ("bc",)}, "ab", "stop", 7, 3),
        ([1, 2, 1, 2], {"stop": ("bc",), "min_tokens": 3}, "bc", "stop", "bc", 4),
        ([7, 7, 0, 7], {"min_tokens": 3}, "hha", "stop", 7, 4),
    ],
    ids=[
        "end token",
        "end token ignored",
        "stop token",
        "stop text over tokens",
        "stop text over an incomplete token",
        "held text is given at the end",
        "no stop text before min_tokens",
        "no end token before min_tokens",
    ],
)
def test_an_answer_ends(
    tokens: list[int],
    sampling: dict[str, Any],
    text: str,
    finish: str | None,
    matched: str | int | None,
    used: int,
) -> None:
    got, progress, count = follow(answer(**sampling), tokens)
    assert (got, progress.finish, progress.matched_stop, count) == (text, finish, matched, used)


def test_the_limit_gives_what_was_held_back() -> None:
    one = answer(max_tokens=2, stop=("bc",))
    assert follow(one, [0, 1, 2]) == ("ab", Progress("b", FinishReason.LENGTH), 2)


def test_stop_texts_work_where_no_text_is_wanted() -> None:
    got, progress, used = follow(answer(text=False, stop=("bc",)), [0, 1, 2, 3])
    assert (got, progress.matched_stop, used) == ("", "bc", 3)


def test_a_text_that_matches_ends_when_nothing_may_follow() -> None:
    one = answer()
    one.feed(0)
    assert one.feed(1, complete=True).finish == "stop"
