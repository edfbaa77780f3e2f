"""Guessing tokens by looking up what followed the same tokens before.

Why it exists: a step that checks several guessed tokens costs hardly more than one that computes
one, and text that repeats its prompt (summaries, edits, code, JSON) is guessed well without any
further model (Saxena, "Prompt Lookup Decoding", 2023). A guess is accepted while it equals the
token that would have been chosen anyway, greedy or drawn, so that answers and their distribution do
not change. It imports no runtime.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Tokens

__all__ = ["guess"]


def guess(tokens: array[int], *, ngram: int, most: int) -> Tokens[int]:
    """Tokens that followed the most recent earlier occurrence of the last ones.

    Args:
        tokens: int64, those of the sequence so far.
        ngram: longest run to look for; shorter ones are tried after it, down to one token.
        most: how many to guess.

    Returns:
        At most so many tokens; none when even the last token did not occur before.
    """
    content = tokens.tobytes()
    width = tokens.itemsize
    for length in range(min(ngram, len(tokens) - 1), 0, -1):
        pattern = content[-length * width :]
        place = _last_aligned(content, pattern, width, len(content) - width)
        if place is not None:
            following = place // width + length
            return tokens[following : following + most]
    return ()


def _last_aligned(content: bytes, pattern: bytes, width: int, end: int) -> int | None:
    """The last place where the pattern lies on the border of a token, before the end itself."""
    while (place := content.rfind(pattern, 0, end)) >= 0:
        if place % width == 0:
            return place
        end = place + len(pattern) - 1
    return None
