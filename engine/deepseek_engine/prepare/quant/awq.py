"""AWQ: columns of a weight that large activations multiply are rounded more finely.

The method of Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan and Han, "AWQ: Activation-aware
Weight Quantization" (2023). The columns are multiplied by mean|x|^a before rounding, and the layer
before divides (see `folding`); a is the one whose rounding changes the output least. Then each
group's range is cut to where the error, weighted by the power of the inputs, is least. Without a
layer that can divide only the second step is done.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from deepseek_kernels.weights import QuantizedWeight

from deepseek_engine.prepare.quant.calibration import InputStatistics
from deepseek_engine.prepare.quant.folding import Fold
from deepseek_engine.prepare.quant.rounding import (
    SHRINKS,
    best_grid,
    check_weight,
    pack_groups,
    split_groups,
)
from deepseek_engine.quant.exchange import weight_matrix
from deepseek_engine.quant.schemes import Scheme

STRENGTHS = tuple(step / 10 for step in range(11))
"""Values of a that are tried."""


def awq_factors(fold: Fold, statistics: InputStatistics, scheme: Scheme) -> torch.Tensor:
    """What to multiply the columns ``[K]`` of a fold's consumers by before rounding."""
    mean = statistics.absolute / statistics.count
    mean = torch.where(mean > 0, mean, mean[mean > 0].amin() if bool((mean > 0).any()) else 1.0)
    rows = statistics.sample.rows.float()
    weights = [weight_matrix(layer).float() for layer in fold.consumers]
    best, least = torch.ones_like(mean), float("inf")
    for strength in STRENGTHS:
        factors = mean.pow(strength)
        factors /= (factors.amax() * factors.amin()).sqrt()
        error = sum(_output_error(weight, rows, factors, scheme) for weight in weights)
        if error < least:
            best, least = factors, float(error)
    return best


def _output_error(
    weight: torch.Tensor, rows: torch.Tensor, factors: torch.Tensor, scheme: Scheme
) -> float:
    groups = split_groups(weight * factors, scheme.group_size, "")
    grid = best_grid(groups, symmetric=scheme.symmetric)
    difference = (grid.value_of(grid.round(groups)) - groups).flatten(1) / factors
    return float((rows @ difference.t()).square().sum())


def scale_columns(folds: Sequence[tuple[Fold, InputStatistics, Scheme]]) -> None:
    """Multiply the columns of every fold's consumers; the module's answers stay."""
    for fold, statistics, scheme in folds:
        fold.move(awq_factors(fold, statistics, scheme))


def round_by_importance(
    weight: torch.Tensor, squares: torch.Tensor, scheme: Scheme, *, layer: str = ""
) -> QuantizedWeight:
    """Round ``weight [N, K]`` with ranges that suit the mean squares ``[K]`` of its inputs.

    Raises:
        SourceError: the weight holds NaN or infinity.
        PrecisionError: K is not a multiple of the group.
    """
    check_weight(weight, layer)
    groups = split_groups(weight.detach().float(), scheme.group_size, layer)
    importance = squares.reshape(groups.shape[1:]) + squares.mean() * 1e-6
    grid = best_grid(groups, symmetric=scheme.symmetric, importance=importance, shrinks=SHRINKS)
    return pack_groups(grid.round(groups), grid, scheme)
