"""GPTQ: int4 values chosen one column after the other, each making up for the ones before.

The method of Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization
for Generative Pre-trained Transformers" (2022). With H the sum of x x^T over calibration inputs,
the error of an output is (w - q) H (w - q)^T; rounding a column leaves an error that the columns
still to come can partly undo, and the Cholesky factor of the inverse of H says how.

Columns are taken by descending input power if `act_order` is set; the scales of groups are fixed
before then, so that the checkpoint needs no permutation. Columns that no input ever excited are
rounded to the nearest value and correct nothing. For each output feature the result is compared
with rounding to the nearest on the same statistics, and the better one is taken: calibration noise
can make nothing worse than that.
"""

from __future__ import annotations

import torch
from deepseek_api.errors import PrecisionError, SourceError
from deepseek_kernels.weights import QuantizedWeight

from deepseek_engine.prepare.quant.rounding import (
    SHRINKS,
    Grid,
    best_grid,
    check_weight,
    pack_groups,
    split_groups,
)
from deepseek_engine.quant.schemes import Granularity, Scheme

BLOCK = 128
"""Columns whose corrections are applied to the rest at once; a multiple of every group."""
DAMPING = 0.01
"""Part of the mean diagonal that is added to the diagonal."""
LARGEST_DAMPING = 1.0


def gptq(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    scheme: Scheme,
    *,
    layer: str = "",
    act_order: bool = True,
    damping: float = DAMPING,
) -> QuantizedWeight:
    """Round ``weight [N, K]`` to an int4 scheme, given ``hessian [K, K]`` of its inputs.

    Raises:
        PrecisionError: the scheme has no groups, or K is not a multiple of the group.
        SourceError: the weight holds NaN or infinity, or the statistics are useless.
    """
    if scheme.granularity is not Granularity.GROUP:
        raise PrecisionError(
            f"GPTQ does not round to '{scheme.name}'.", hint="Use it for int4 schemes."
        )
    check_weight(weight, layer)
    values, statistics = weight.detach().float(), hessian.float()
    groups = split_groups(values, scheme.group_size, layer)
    power = statistics.diagonal()
    importance = power.reshape(groups.shape[1:]) + power.mean() * 1e-6
    grid = best_grid(groups, symmetric=scheme.symmetric, importance=importance, shrinks=SHRINKS)
    order = torch.argsort(power, descending=True, stable=True) if act_order else None
    factor = _inverse_factor(statistics, order, damping, layer)
    rounded, grid = _round_columns(groups, grid, factor, order, scheme)
    plain = best_grid(groups, symmetric=scheme.symmetric)
    return _better_rows(groups, statistics, [(rounded, grid), (plain.round(groups), plain)], scheme)


def _inverse_factor(
    hessian: torch.Tensor, order: torch.Tensor | None, damping: float, layer: str
) -> torch.Tensor:
    """The upper Cholesky factor of the inverse, columns in the order of rounding; fp32."""
    wide = hessian.double()
    diagonal = wide.diagonal()
    dead = diagonal == 0
    mean = float(diagonal[~dead].mean()) if bool((~dead).any()) else 1.0
    diagonal[dead] = mean
    if order is not None:
        wide = wide[order][:, order]
    while damping <= LARGEST_DAMPING:
        damped = wide + damping * mean * torch.eye(len(wide), dtype=torch.float64)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(failed):
                found: torch.Tensor = upper.float()
                return found
        damping *= 10
    raise SourceError(
        f"The calibration inputs of the layer '{layer}' give no usable statistics.",
        hint="Calibrate with more and more varied examples, or round it to the nearest value.",
        reason="CalibrationUseless",
    )


def _round_columns(
    groups: torch.Tensor,
    grid: Grid,
    factor: torch.Tensor,
    order: torch.Tensor | None,
    scheme: Scheme,
) -> tuple[torch.Tensor, Grid]:
    """Values ``[N, G, g]`` and the grid that they belong to."""
    rows, columns = len(groups), groups.shape[1] * groups.shape[2]
    left = groups.reshape(rows, columns).clone()
    left = left if order is None else left[:, order]
    places = torch.arange(columns) if order is None else order
    rounded = torch.empty_like(left)
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        block, errors = left[:, first:last], torch.zeros(rows, last - first)
        for column in range(last - first):
            number = int(places[first + column]) // scheme.group_size
            if order is None and (first + column) % scheme.group_size == 0:
                grid = _regrid(grid, number, block[:, column : column + scheme.group_size], scheme)
            own = Grid(
                grid.scale[:, number],
                None if grid.zero_point is None else grid.zero_point[:, number],
            )
            found = own.round(block[:, column : column + 1])
            rounded[:, first + column] = found[:, 0]
            pivot = factor[first + column, first + column]
            error = (block[:, column : column + 1] - own.value_of(found)) / pivot
            block[:, column:] -= error @ factor[None, first + column, first + column : last]
            errors[:, column] = error[:, 0]
        left[:, last:] -= errors @ factor[first:last, last:]
    if order is not None:
        unordered = torch.empty_like(rounded)
        unordered[:, order] = rounded
        rounded = unordered
    return rounded.reshape(groups.shape), grid


def _regrid(grid: Grid, number: int, values: torch.Tensor, scheme: Scheme) -> Grid:
    """The grid with the scale of one group chosen again, for its corrected values."""
    own = best_grid(values[:, None], symmetric=scheme.symmetric, shrinks=SHRINKS)
    scale = grid.scale.clone()
    scale[:, number] = own.scale[:, 0]
    point = grid.zero_point
    if point is not None and own.zero_point is not None:
        point = point.clone()
        point[:, number] = own.zero_point[:, 0]
    return Grid(scale, point)


def _better_rows(
    groups: torch.Tensor,
    hessian: torch.Tensor,
    candidates: list[tuple[torch.Tensor, Grid]],
    scheme: Scheme,
) -> QuantizedWeight:
    """For each output feature the candidate with the least error of the output."""
    errors = torch.stack(
        [_output_errors(grid.value_of(found) - groups, hessian) for found, grid in candidates]
    )
    best = errors.argmin(0)
    rounded, grid = candidates[0]
    for number, (other, its_grid) in enumerate(candidates[1:], start=1):
        chosen = (best == number)[:, None, None]
        rounded = torch.where(chosen, other, rounded)
        points = None
        if grid.zero_point is not None and its_grid.zero_point is not None:
            points = torch.where(chosen, its_grid.zero_point, grid.zero_point)
        grid = Grid(torch.where(chosen, its_grid.scale, grid.scale), points)
    return pack_groups(rounded, grid, scheme)


def _output_errors(difference: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """The product d H d^T for each row ``[N]`` of differences ``[N, G, g]``."""
    flat = difference.flatten(1)
    return ((flat @ hessian) * flat).sum(1)
