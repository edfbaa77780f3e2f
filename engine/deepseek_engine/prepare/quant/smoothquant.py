"""SmoothQuant: outliers of activations become part of the weight, where they do less harm.

The method of Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient
Post-Training Quantization for Large Language Models" (2022): each input channel k is divided by
max|x_k|^a / max|w_k|^(1 - a). It is for schemes that round inputs (``int8-dynamic``,
``fp8-dynamic``), and needs a layer before that can divide, see `folding`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deepseek_engine.prepare.quant.calibration import InputStatistics
from deepseek_engine.prepare.quant.folding import Fold
from deepseek_engine.quant.exchange import weight_matrix

STRENGTH = 0.5
"""How much of the difficulty moves: 0 none, 1 all."""


def smoothing_factors(
    fold: Fold, statistics: InputStatistics, *, strength: float = STRENGTH
) -> torch.Tensor:
    """What to divide each input channel ``[K]`` of a fold's consumers by."""
    peak = statistics.peak()
    weights = torch.stack([weight_matrix(layer).abs().amax(0) for layer in fold.consumers])
    largest = weights.amax(0).float()
    factors = peak.pow(strength) / largest.pow(1 - strength)
    # A channel that is always zero, or that no weight reads, has nothing to move.
    usable = (peak > 0) & (largest > 0) & torch.isfinite(factors) & (factors > 0)
    return torch.where(usable, factors, 1.0)


def smooth(folds: Sequence[tuple[Fold, InputStatistics]], *, strength: float = STRENGTH) -> None:
    """Move the outliers of every fold into its weights; the module's answers stay."""
    for fold, statistics in folds:
        fold.move(smoothing_factors(fold, statistics, strength=strength))
