"""Tokens to text as they come: complete characters only.

Why it exists: a character may consist of several tokens, and whether a token begins with a space
may depend on the one before it. Text that was sent cannot be taken back, so it is sent when no
further token can change it. The rules are those of the tokenizer's own decoder; nothing is decided
here but how long to wait for a character.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

__all__ = ["Detokenizer"]

_CONTEXT = 6
"""Tokens of the prompt that the decoder sees first: it removes a space at the very beginning of a
text only, and the answer is not one."""
_LONGEST_CHARACTER = 8
"""Tokens after which bytes that still are no character never will be one: UTF-8 has at most 4."""


class Detokenizer:
    """The text of one answer. Special tokens have no text."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        """Begin behind a prompt.

        Args:
            tokenizer: a `tokenizers.Tokenizer`.
            prompt: its tokens.
        """
        self._tokenizer = tokenizer
        self._context = list(prompt[-_CONTEXT:])
        self._held: list[int] = []
        self._stream = self._begin()

    def feed(self, token: int) -> str:
        """Text that became complete with this token; bytes that are no text become U+FFFD.

        Bytes of a character that is never completed have no text.
        """
        self._held.append(token)
        try:
            text: str | None = self._stream.step(self._tokenizer, token)
        except Exception:
            # The library knows no narrower type. The token changed the text of those before it,
            # such as bytes at the end of the prompt that it cannot complete; they are given up.
            self._context = []
            text = self._restart()
        if text is None:
            if len(self._held) <= _LONGEST_CHARACTER:
                return ""
            text = self._restart()
        self._held.clear()
        return text

    def _restart(self) -> str:
        """Give what is held as it is, and begin again behind it."""
        self._stream = self._begin()
        text: str = self._tokenizer.decode(self._held, skip_special_tokens=True)
        return text

    def _begin(self) -> DecodeStream:
        return DecodeStream(ids=self._context, skip_special_tokens=True)
