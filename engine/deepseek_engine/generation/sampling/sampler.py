"""Choosing the tokens of a whole batch.

Why it exists: requests of one batch want different things, and each must cost only those who asked
for it. A batch in which everybody takes the likeliest token is one reduction over the scores;
everything else works on the rows that need it. Scores that are not numbers fail their own row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deepseek_engine.generation.requests import TokenLogprob
from deepseek_engine.generation.sampling import filters
from deepseek_engine.generation.sampling.choices import Choice

__all__ = ["Pick", "Row", "Sampler"]

_FAILED = -1


@dataclass(frozen=True, slots=True)
class Row:
    """Which token is chosen from a row of scores."""

    choice: Choice
    position: int
    """Of the token to be chosen."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A chosen token."""

    token: int
    """-1: the scores of this row were not numbers."""
    logprob: TokenLogprob | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no token."""
        return self.token == _FAILED


class Sampler:
    """Chooses on one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def sample(self, scores: torch.Tensor, rows: Sequence[Row]) -> list[Pick]:
        """Choose a token for each row; waits for the device once, at the end.

        Args:
            scores: float32 [R, V]; rows that need it are changed in place.
            rows: R of them.
        """
        wanted = [i for i, row in enumerate(rows) if row.choice.sampling.logprobs is not None]
        raw = scores[self._index(wanted)] if wanted else None
        best, tokens = scores.max(dim=1)
        adjusted = self._adjust(scores, rows)
        if adjusted:
            # What was excluded may have left nothing to choose.
            index = self._index(adjusted)
            again, others = scores[index].max(dim=1)
            best, tokens = best.clone(), tokens.clone()
            best[index] = torch.where(torch.isfinite(best[index]), again, best[index])
            tokens[index] = others
        drawn = [i for i, row in enumerate(rows) if not row.choice.sampling.greedy]
        if drawn:
            tokens[self._index(drawn)] = self._draw(scores, rows, drawn)
        # The largest score tells: NaN wins every comparison of a reduction, and so does +inf.
        tokens = torch.where(torch.isfinite(best), tokens, _FAILED)
        if raw is None:
            return [Pick(token) for token in tokens.tolist()]
        return self._with_logprobs(raw, tokens, rows, wanted)

    def _draw(self, scores: torch.Tensor, rows: Sequence[Row], drawn: list[int]) -> torch.Tensor:
        vocabulary = scores.shape[1]
        asked = [rows[i].choice.sampling for i in drawn]
        # A top-k of the whole vocabulary or more leaves nothing out.
        ks = [s.top_k if s.top_k < vocabulary else 0 for s in asked]
        numbers = self._floats(
            [[s.temperature for s in asked], [s.top_p for s in asked], [s.min_p for s in asked]]
        )
        draws = self._to(np.array([rows[i].choice.draw(rows[i].position) for i in drawn]))
        everyone = len(drawn) == len(rows)
        subset = scores if everyone else scores[self._index(drawn)]
        scaled = subset / numbers[0][:, None]
        least = filters.threshold(
            scaled,
            top_k=self._index(ks),
            top_p=numbers[1],
            min_p=numbers[2],
            most_k=max(ks),
            nucleus=any(s.top_p < 1.0 for s in asked),
        )
        # Rows that failed have no distribution; whatever they give is replaced.
        return filters.choose(scaled, least, draws).clamp(max=vocabulary - 1)

    def _adjust(self, scores: torch.Tensor, rows: Sequence[Row]) -> list[int]:
        """Penalties, excluded tokens and masks, in place; the rows that were changed."""
        penalized = [i for i, row in enumerate(rows) if row.choice.occurrences is not None]
        if penalized:
            self._penalize(scores, rows, penalized)
        excluded = [i for i, row in enumerate(rows) if row.choice.excluded]
        if excluded:
            places = [(i, token) for i in excluded for token in rows[i].choice.excluded]
            index = self._to(np.array(places, np.int64).T)
            scores[index[0], index[1]] = -torch.inf
        masked = [i for i, row in enumerate(rows) if row.choice.matcher is not None]
        if masked:
            self._mask(scores, rows, masked)
        return sorted({*penalized, *excluded, *masked})

    def _penalize(self, scores: torch.Tensor, rows: Sequence[Row], which: list[int]) -> None:
        asked = [rows[i].choice.sampling for i in which]
        seen = [o for i in which if (o := rows[i].choice.occurrences) is not None]
        sizes = [len(occurrences.tokens) for occurrences in seen]
        factors = np.array(
            [
                [s.repetition_penalty for s in asked],
                [s.presence_penalty for s in asked],
                [s.frequency_penalty for s in asked],
            ],
            np.float32,
        )
        numbers = self._to(np.repeat(factors, sizes, axis=1))
        filters.penalize(
            scores,
            rows=self._to(np.repeat(np.array(which, np.int64), sizes)),
            tokens=self._to(np.concatenate([occurrences.tokens for occurrences in seen])),
            counts=self._to(np.concatenate([occurrences.counts for occurrences in seen])),
            repetition=numbers[0],
            presence=numbers[1],
            frequency=numbers[2],
        )

    def _mask(self, scores: torch.Tensor, rows: Sequence[Row], which: list[int]) -> None:
        vocabulary = scores.shape[1]
        words = np.zeros((len(which), -(-vocabulary // 32)), np.int32)
        for place, i in enumerate(which):
            matcher = rows[i].choice.matcher
            assert matcher is not None
            matcher.mask_into(words[place])
        shifts = torch.arange(32, device=self._device, dtype=torch.int32)
        bits = (self._to(words)[:, :, None] >> shifts) & 1
        allowed = bits.flatten(1)[:, :vocabulary] != 0
        index = self._index(which)
        scores[index] = torch.where(allowed, scores[index], -torch.inf)

    def _with_logprobs(
        self, raw: torch.Tensor, tokens: torch.Tensor, rows: Sequence[Row], wanted: list[int]
    ) -> list[Pick]:
        tops = [rows[i].choice.sampling.logprobs or 0 for i in wanted]
        chosen = tokens[self._index(wanted)].clamp(min=0)
        own, values, indices = filters.log_probabilities(raw, chosen, max(tops))
        # Token numbers are below 2^53, so that one copy of doubles brings everything.
        packed = torch.cat(
            [tokens.double(), own.double(), values.double().flatten(), indices.double().flatten()]
        ).tolist()
        count, width = len(tokens), values.shape[1]
        picks = [Pick(int(token)) for token in packed[:count]]
        packed = packed[count:]
        for place, (i, top) in enumerate(zip(wanted, tops, strict=True)):
            if picks[i].failed:
                continue
            start = len(wanted) + place * width
            first = start + len(wanted) * width
            likeliest = tuple(
                (int(packed[first + n]), packed[start + n]) for n in range(min(top, width))
            )
            picks[i] = Pick(picks[i].token, TokenLogprob(picks[i].token, packed[place], likeliest))
        return picks

    def _index(self, values: Sequence[int]) -> torch.Tensor:
        return self._to(np.array(values, np.int64))

    def _floats(self, values: Sequence[Sequence[float]]) -> torch.Tensor:
        return self._to(np.array(values, np.float32))

    def _to(self, array: Any) -> torch.Tensor:
        """Copy to the device without waiting for it."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)
