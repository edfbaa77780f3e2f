"""What choosing the tokens of one sequence needs to remember.

Why it exists: penalties look back at the tokens, and a draw must not depend on what else is in the
batch or on whether the sequence was interrupted. So a draw is a function of seed and position, and
the occurrences are counted here as the tokens come, on the host and in a form that is copied to the
device as it is. Imports NumPy and no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from deepseek_api.errors import InferenceError

from deepseek_engine.generation.requests import SamplingParameters

__all__ = ["Choice", "Matcher", "Occurrences", "uniform"]

_RANGE = 1 << 32


class Matcher(Protocol):
    """Follows a text that must match something (`constraints`)."""

    def mask_into(self, words: npt.NDArray[np.int32]) -> None:
        """Write which tokens may come next, a bit for each; none when there is an `error`."""
        ...

    def accept(self, token: int) -> None:
        """Take the next token."""
        ...

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        ...

    @property
    def error(self) -> InferenceError | None:
        """Why no further token can be chosen, if so."""
        ...


def uniform(seed: int, position: int) -> float:
    """A number evenly distributed in (0, 1), the same whenever it is asked for.

    Args:
        seed: below 2^64.
        position: of the token in the sequence.
    """
    digest = hashlib.blake2b(
        position.to_bytes(8, "little"), key=seed.to_bytes(8, "little"), digest_size=4
    ).digest()
    # Neither 0 nor 1: the ends of a distribution must stay out of reach of rounding.
    return (int.from_bytes(digest, "little") + 0.5) / _RANGE


class Occurrences:
    """Tokens that occurred in a sequence, and how often in its answer."""

    def __init__(self, prompt: Sequence[int]) -> None:
        """Begin with a prompt; its tokens count as occurred and not as generated."""
        seen = np.unique(np.asarray(prompt, dtype=np.int64))
        self._size = len(seen)
        self._tokens = np.zeros(max(64, 2 * self._size), np.int64)
        self._tokens[: self._size] = seen
        self._counts = np.zeros(len(self._tokens), np.float32)
        self._places = {int(token): place for place, token in enumerate(seen)}

    def add(self, token: int) -> None:
        """Count a generated token."""
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = self._size
            if place == len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._tokens[place] = token
            self._size += 1
        self._counts[place] += 1

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """Different tokens, [U]."""
        return self._tokens[: self._size]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        """How often each was generated, [U]; 0 for those of the prompt only."""
        return self._counts[: self._size]


class Choice:
    """How one sequence chooses."""

    def __init__(
        self,
        sampling: SamplingParameters,
        prompt: Sequence[int],
        *,
        seed: int,
        ends: frozenset[int] = frozenset(),
        matcher: Matcher | None = None,
    ) -> None:
        """Begin an answer.

        Args:
            sampling: the request's.
            prompt: tokens before the answer.
            seed: of its draws.
            ends: tokens that end it; excluded before ``min_tokens``.
            matcher: what the text must match. It decides about the end itself, so that
                ``min_tokens`` does not exclude end tokens then.
        """
        self.sampling = sampling
        self.matcher = matcher
        self._seed = seed
        self._generated = 0
        self._ends = tuple(sorted(ends)) if matcher is None else ()
        penalized = (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty != 0.0
            or sampling.frequency_penalty != 0.0
        )
        self.occurrences = Occurrences(prompt) if penalized else None

    @property
    def plain(self) -> bool:
        """Whether scores depend on nothing but the model: guessed tokens can be checked then."""
        return self.occurrences is None and self.matcher is None

    @property
    def guessable(self) -> bool:
        """Whether tokens may be guessed now."""
        return self.plain and not self.excluded

    @property
    def excluded(self) -> tuple[int, ...]:
        """Tokens that may not come next."""
        return self._ends if self._generated < self.sampling.min_tokens else ()

    @property
    def complete(self) -> bool:
        """Whether the text matches and nothing may follow."""
        return self.matcher is not None and self.matcher.complete

    @property
    def error(self) -> InferenceError | None:
        """Why the text cannot go on, where that is known."""
        return None if self.matcher is None else self.matcher.error

    def draw(self, position: int) -> float:
        """The number that decides about the token at a position."""
        return uniform(self._seed, position)

    def made(self, token: int) -> None:
        """Take a generated token."""
        self._generated += 1
        if self.occurrences is not None:
            self.occurrences.add(token)
        if self.matcher is not None:
            self.matcher.accept(token)
