"""What every family of the accuracy bench brings, and how its figures are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn

__all__ = ["Effort", "Loss", "Make", "Score", "Subject", "Train", "Trained", "pooled"]


@dataclass(frozen=True, slots=True)
class Score:
    """A metric over samples: ``total / samples``."""

    total: float
    """Right answers, sums of Dice or of cosines, or bits."""
    samples: int
    """Answers, volumes, sentences or bytes."""

    @property
    def value(self) -> float:
        """The metric."""
        return self.total / self.samples


def pooled(scores: Iterable[Score]) -> Score:
    """One score over the samples of several."""
    found = list(scores)
    return Score(sum(s.total for s in found), sum(s.samples for s in found))


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is trained and scored; 1 is what committed results are made with."""

    part: float = 1.0

    def steps(self, full: int) -> int:
        """Steps, epochs or samples instead of ``full``."""
        return max(2, round(full * self.part))


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that has learned something, and what it is judged and calibrated with."""

    module: nn.Module
    """In eval mode, fp32."""
    feeds: Sequence[Any]
    """Inputs from the training set, for calibration."""
    score: Callable[[nn.Module], Score]
    """The metric of a module like this one on inputs that training never saw."""
    config: Mapping[str, Any]
    """What stands in the ``config.json`` beside the weights."""


Loss = Callable[[nn.Module, int], torch.Tensor]
"""From the model and the number of the step to the loss of its batch."""


class Train(Protocol):
    """Trains a module in place and leaves it in eval mode; it may know the outcome already."""

    def __call__(self, module: nn.Module, loss: Loss, *, steps: int, rate: float) -> None:
        """See `benchmarks.accuracy.training.train`."""


Make = Callable[[int, Effort, Train], Trained]
"""From the seed, how much to do, and what trains."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One family."""

    name: str
    """As it stands in the results."""
    metric: str
    better: Literal["higher", "lower"]
    make: Make
    """Train with a seed, or load."""
    variants: tuple[str, ...]
    """Names of `benchmarks.accuracy.variants.VARIANTS` that apply."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each trains anew and is judged on other samples; one for models that come trained."""

    def kept(self, reference: Score, given: Score) -> float:
        """The part of the reference's metric that is kept."""
        if self.better == "lower":
            return reference.value / given.value
        return given.value / reference.value
