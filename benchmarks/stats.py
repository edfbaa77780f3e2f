"""From the rounds of a run to one figure, its spread and its ratio to a peer.

Why it exists: a shared machine stalls now and then, and its speed drifts. Every subject has its
turn in every round, a round counts once, and the median over the rounds is the figure.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.record import Spread

__all__ = ["Better", "Comparison", "Rounds", "compare", "percentile", "significant"]

Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Rounds:
    """One subject's figure in every round."""

    values: tuple[float, ...]
    n: int
    """Single observations behind them."""

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.values)

    def spread(self) -> Spread:
        """10th and 90th percentile over the rounds."""
        return Spread(
            low=significant(percentile(self.values, 0.1)),
            high=significant(percentile(self.values, 0.9)),
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A subject beside a peer of the same run."""

    ratio: float
    """How many times better the subject's median is."""
    low: float
    """10th percentile of the ratios of the single rounds."""
    high: float
    """90th percentile of the same."""


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which a part (0 to 1) lies, interpolated between neighbours.

    Raises:
        ValueError: there are no values, or the part is outside 0 to 1.
    """
    if not values or not 0.0 <= part <= 1.0:
        raise ValueError("a percentile needs values and a part between 0 and 1")
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def compare(subject: Rounds, peer: Rounds, *, better: Better) -> Comparison:
    """How many times better a subject is than a peer that had its turns in the same rounds.

    Raises:
        ValueError: they have not the same number of rounds.
    """
    if len(subject.values) != len(peer.values):
        raise ValueError("subject and peer must come from the same rounds")
    ratios = [
        _ratio(own, other, better) for own, other in zip(subject.values, peer.values, strict=True)
    ]
    return Comparison(
        ratio=_ratio(subject.median, peer.median, better),
        low=percentile(ratios, 0.1),
        high=percentile(ratios, 0.9),
    )


def _ratio(own: float, other: float, better: Better) -> float:
    return other / own if better == "lower" else own / other


def significant(value: float, digits: int = 4) -> float:
    """The value with so many significant digits; more of them would be noise in a diff."""
    return float(f"{value:.{digits}g}")
