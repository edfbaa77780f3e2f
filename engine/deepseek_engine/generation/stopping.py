"""When an answer ends: end tokens, stop tokens, stop texts, its length.

Why it exists: a stop text may begin in one token and end in another, and a client must never see
a part of it. Text that may turn out to be its beginning is held back until that is known. It works
on tokens and text of one sequence and knows no runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deepseek_engine.generation.requests import FinishReason, SamplingParameters

__all__ = ["Answer", "Progress", "StopTexts", "TextSource"]


class TextSource(Protocol):
    """Turns tokens into text, one by one."""

    def feed(self, token: int) -> str:
        """Text that became complete."""
        ...


class StopTexts:
    """Looks for stop texts in text that comes in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for these; none of them is empty."""
        self._stops = tuple(stops)
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """Take more text.

        Returns:
            Text that is no part of a stop text, whatever follows; and the stop text that was found,
            if any: the one that begins first, the longest of several that begin there.
        """
        self._held += text
        found = [(place, -len(s), s) for s in self._stops if (place := self._held.find(s)) >= 0]
        if found:
            place, _, stop = min(found)
            given, self._held = self._held[:place], ""
            return given, stop
        keep = self._beginning()
        split = len(self._held) - keep
        given, self._held = self._held[:split], self._held[split:]
        return given, None

    def flush(self) -> str:
        """What is held back, when nothing follows any more."""
        given, self._held = self._held, ""
        return given

    def _beginning(self) -> int:
        """Length of the longest end of the held text that a stop text begins with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0


@dataclass(frozen=True, slots=True)
class Progress:
    """What a token did."""

    text: str = ""
    finish: FinishReason | None = None
    matched_stop: str | int | None = None


class Answer:
    """Follows the tokens of one answer until it ends."""

    def __init__(
        self,
        sampling: SamplingParameters,
        *,
        max_tokens: int,
        end_tokens: frozenset[int],
        source: TextSource | None,
        text: bool = True,
    ) -> None:
        """Begin an answer.

        Args:
            sampling: the request's.
            max_tokens: most tokens of it.
            end_tokens: the model's own.
            source: turns tokens into text; None: stop texts are not looked for.
            text: whether text is wanted, or only looked at.
        """
        self.ends = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            self.ends |= end_tokens
        self._min, self._max = sampling.min_tokens, max_tokens
        self._source = source if text or sampling.stop else None
        self._stops = StopTexts(sampling.stop)
        self._text = text
        self._count = 0

    def feed(self, token: int, *, complete: bool = False) -> Progress:
        """Take the next token.

        Args:
            token: it.
            complete: nothing may follow it: what the text must match is matched.
        """
        self._count += 1
        enough = self._count >= self._min
        if token in self.ends and enough:
            # The token of an end has no text.
            return self._end(self._stops.flush(), FinishReason.STOP, token)
        text = self._source.feed(token) if self._source else ""
        if enough:
            text, stop = self._stops.feed(text)
            if stop is not None:
                return self._end(text, FinishReason.STOP, stop)
        if complete:
            return self._end(text + self._stops.flush(), FinishReason.STOP, None)
        if self._count >= self._max:
            return self._end(text + self._stops.flush(), FinishReason.LENGTH, None)
        return Progress(text if self._text else "")

    def _end(self, text: str, reason: FinishReason, stop: str | int | None) -> Progress:
        return Progress(text if self._text else "", reason, stop)
