"""The "did you mean" part of error messages.

Why it exists: every message that refuses a word should offer the nearest known one, in one form.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["did_you_mean", "one_of"]

MAX_LENGTH = 100
"""Longer words are never typing mistakes, and comparing them costs quadratic time."""


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """``Did you mean 'x'?`` for the known word nearest to ``word``, or None."""
    # Imported late: only failures need it, and start-up time is everybody's.
    import difflib

    if len(word) > MAX_LENGTH:
        return None
    by_lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"Did you mean '{by_lower[matches[0]]}'?" if matches else None


def one_of(words: Iterable[str]) -> str:
    """The words as ``'a', 'b' or 'c'``."""
    quoted = [f"'{word}'" for word in words]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
