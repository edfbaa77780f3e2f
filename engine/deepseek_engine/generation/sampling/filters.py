"""Tensor functions of sampling: penalties, thresholds, draws.

Why it exists: each is a definition that can be checked alone. What a row gives depends on that row
only, never on others of the batch. Filters are thresholds on scores and not lists of tokens: tokens
of equal score are kept or left out together, so that their order never matters. The order of the
filters and their definitions are those of the transformers library (temperature, top-k, top-p,
min-p), up to ties.
"""

from __future__ import annotations

import torch

__all__ = ["choose", "log_probabilities", "penalize", "threshold"]

_FIRST = 1024
"""Candidates that are sorted on a processor before all of them are: sorting a whole vocabulary
takes longer than anything else here, and the most likely tokens nearly always suffice."""


def penalize(
    scores: torch.Tensor,
    *,
    rows: torch.Tensor,
    tokens: torch.Tensor,
    counts: torch.Tensor,
    repetition: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
) -> None:
    """Change the scores of tokens that occurred, in place.

    Args:
        scores: float32 [R, V].
        rows: int64 [N], the row of each occurrence.
        tokens: int64 [N], no token twice in a row.
        counts: float32 [N], how often it was generated.
        repetition: float32 [N]; divides positive scores and multiplies others (Keskar and others,
            "CTRL", 2019).
        presence: float32 [N], taken once from what was generated.
        frequency: float32 [N], taken for each time it was generated.
    """
    values = scores[rows, tokens]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values = values - presence * (counts > 0) - frequency * counts
    scores[rows, tokens] = values


def threshold(
    scores: torch.Tensor,
    *,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    most_k: int,
    nucleus: bool,
) -> torch.Tensor:
    """The smallest score that a token may have.

    Args:
        scores: float32 [R, V], divided by the temperature.
        top_k: int64 [R], below V; 0: all.
        top_p: float32 [R] in (0, 1].
        min_p: float32 [R] in [0, 1].
        most_k: the largest of ``top_k``; known on the host, so that nothing waits for the device.
        nucleus: whether any of ``top_p`` is below 1.

    Returns:
        float32 [R].
    """
    # log(0) is -inf: a min-p of 0 leaves nothing out.
    least = scores.amax(dim=1) + torch.log(min_p)
    if not most_k and not nucleus:
        return least
    vocabulary = scores.shape[1]
    sorts = nucleus and scores.device.type != "cpu"
    count = vocabulary if sorts else min(vocabulary, max(_FIRST if nucleus else 1, most_k))
    while True:
        candidates = _largest(scores, count)
        place = (top_k.clamp(min=1) - 1)[:, None]
        kth = torch.where(top_k > 0, candidates.gather(1, place)[:, 0], -torch.inf)
        least = torch.maximum(least, kth)
        if not nucleus:
            return least
        cut, reached = _nucleus(scores, candidates, kth, top_p)
        if count == vocabulary or bool((reached | (top_p >= 1.0)).all()):
            return torch.maximum(least, torch.where(top_p < 1.0, cut, -torch.inf))
        count = vocabulary


def _largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The largest scores of each row in falling order."""
    if count == scores.shape[1]:
        return scores.sort(dim=1, descending=True).values
    return scores.topk(count, dim=1).values


def _nucleus(
    scores: torch.Tensor, candidates: torch.Tensor, kth: torch.Tensor, top_p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest of the likeliest scores that reach top-p, and whether they do.

    Probabilities are those among the tokens that top-k leaves.
    """
    kept = torch.where(scores >= kth[:, None], scores, -torch.inf)
    total = torch.logsumexp(kept, dim=1, keepdim=True)
    among = torch.where(candidates >= kth[:, None], candidates, -torch.inf)
    sums = torch.exp(among - total).cumsum(dim=1, dtype=torch.float64)
    before = (sums < top_p[:, None]).sum(dim=1)
    reached = before < candidates.shape[1]
    last = before.clamp(max=candidates.shape[1] - 1)
    return candidates.gather(1, last[:, None])[:, 0], reached


def choose(scores: torch.Tensor, least: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Draw a token for each row.

    Args:
        scores: float32 [R, V], divided by the temperature.
        least: float32 [R], the smallest score that may be drawn.
        draws: float64 [R], in (0, 1).

    Returns:
        int64 [R]: the token in whose part of the distribution, in order of token numbers, the
        draw lies.
    """
    weights = torch.exp(scores - scores.amax(dim=1, keepdim=True))
    weights = torch.where(scores >= least[:, None], weights, 0.0)
    # In double precision: sums over a vocabulary in single precision lose the last tokens.
    sums = weights.cumsum(dim=1, dtype=torch.float64)
    return torch.searchsorted(sums, draws[:, None] * sums[:, -1:], right=True)[:, 0]


def log_probabilities(
    scores: torch.Tensor, tokens: torch.Tensor, most: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Natural log probabilities of chosen tokens and of the likeliest ones.

    Args:
        scores: float32 [R, V].
        tokens: int64 [R].
        most: how many of the likeliest.

    Returns:
        float32 [R]; float32 [R, most] and int64 [R, most], likeliest first.
    """
    total = torch.logsumexp(scores, dim=1, keepdim=True)
    own = scores.gather(1, tokens[:, None]) - total
    top = scores.topk(min(most, scores.shape[1]), dim=1)
    return own[:, 0], top.values - total, top.indices
