"""Requests that generate, the same for every subject: made from a seed, never read from a file."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["CLIENTS", "VOCABULARY", "Asked", "trace"]

CLIENTS = 16
VOCABULARY = 8192
_PROMPT = (8, 96)
_ANSWER = (16, 48)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    prompt: tuple[int, ...]
    tokens: int
    """Tokens of the answer: the end token is ignored, so that every subject computes as many."""


def trace(requests: int, *, seed: int = 0) -> list[list[Asked]]:
    """The requests of each client, in the order in which it sends them.

    Args:
        requests: of each client.
        seed: of lengths and tokens. Lengths are evenly distributed: prompts of 8 to 96 tokens,
            answers of 16 to 48.
    """
    draw = random.Random(seed)

    def one() -> Asked:
        prompt = tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randint(*_PROMPT)))
        return Asked(prompt, draw.randint(*_ANSWER))

    return [[one() for _ in range(requests)] for _ in range(CLIENTS)]
