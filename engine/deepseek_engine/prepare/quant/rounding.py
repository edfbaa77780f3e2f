"""Rounding a weight to a scheme: scales, zero points and the nearest values.

Why it exists: streaming, calibrated methods and tests round in the same way. A scale is chosen
from the values that it is for, rounded to the type that it is stored in, and only then used, so
that its own rounding costs nothing. Rows of int8 and fp8 and blocks are rounded by the rule of
`deepseek_kernels.rounding`. In int4, groups of zeros, and groups so small that fp32 has no normal
number for their scale, become 0 with the scale 1.

int4: a symmetric group has 15 or 16 steps for both signs. The steps 1/7, 1/7.5 and 1/8 of the
largest magnitude are tried and the one with the least squared error is kept, so that weights that
already lie on such a grid are kept exactly. Group scales are bf16: the range of fp32, and their
coarser mantissa does not matter, because values are rounded with the scale as stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from deepseek_api.errors import PrecisionError, SourceError
from deepseek_kernels import quantize as nearest
from deepseek_kernels.packing import pack_int4
from deepseek_kernels.rounding import quantize_blocks
from deepseek_kernels.weights import QuantizedWeight

from deepseek_engine.quant.blocks import Int8BlockWeight, LayerWeight
from deepseek_engine.quant.schemes import Granularity, Scheme

INT4_STEPS = (7.5, 7.0, 8.0)
"""By what the largest magnitude of a symmetric group may be divided for its scale."""
SCALE_DTYPE = torch.bfloat16
TINY = torch.finfo(torch.float32).tiny
SHRINKS = tuple(1 - 0.05 * step for step in range(11))
"""Parts of the range that the search of scales tries: 1 down to 0.5."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Scales and zero points of groups ``[..., G, g]``; each has the shape ``[..., G, 1]``."""

    scale: torch.Tensor
    """fp32 numbers that bf16 holds too."""
    zero_point: torch.Tensor | None

    def round(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest int4 values, still in floating point, in [-8, 7]."""
        found = torch.round(values / self.scale)
        if self.zero_point is not None:
            found += self.zero_point
        return found.clamp_(-8, 7)

    def value_of(self, rounded: torch.Tensor) -> torch.Tensor:
        """What int4 values mean."""
        shifted = rounded if self.zero_point is None else rounded - self.zero_point
        return shifted * self.scale


def check_weight(weight: torch.Tensor, layer: str) -> None:
    """Refuse a weight that no rounding can represent.

    Raises:
        SourceError: it holds NaN or infinity.
    """
    if not bool(torch.isfinite(weight).all()):
        raise SourceError(
            f"The weight of the layer '{layer}' holds NaN or infinity.",
            hint="Fetch the checkpoint again; if its training diverged, use an earlier one.",
            reason="WeightsNotFinite",
        )


def cast_to(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """A tensor in another floating point type.

    Raises:
        PrecisionError: finite numbers of it would become infinite.
    """
    cast = tensor.to(dtype)
    if dtype == tensor.dtype or dtype.itemsize > tensor.dtype.itemsize:
        return cast
    if not torch.equal(torch.isfinite(cast), torch.isfinite(tensor)):
        raise PrecisionError(
            f"'{name}' holds numbers that {str(dtype).removeprefix('torch.')} cannot.",
            hint="Use bf16 for it, which has the range of fp32.",
            reason="OutOfRange",
        )
    return cast


def quantize_weight(weight: torch.Tensor, scheme: Scheme, *, layer: str = "") -> LayerWeight:
    """Round a weight ``[N, K]`` to the nearest values of a scheme.

    Args:
        weight: floating point, on the CPU.
        scheme: a quantized scheme.
        layer: name for errors.

    Raises:
        SourceError: the weight holds NaN or infinity.
        PrecisionError: K is not a multiple of the scheme's group.
    """
    check_weight(weight, layer)
    values = weight.detach().float().contiguous()  # stored values keep its strides
    if scheme.granularity is Granularity.GROUP:
        groups = split_groups(values, scheme.group_size, layer)
        grid = best_grid(groups, symmetric=scheme.symmetric)
        return pack_groups(grid.round(groups), grid, scheme)
    if scheme.kind == "int" and scheme.block is not None:
        data, scale = quantize_blocks(values, scheme.block[0])
        return Int8BlockWeight(data=data, scale=scale, block=scheme.block)
    if scheme.kind == "int":
        return nearest.quantize_weight(values, "int8")
    return nearest.quantize_weight(values, "fp8-block" if scheme.block else "fp8")


def split_groups(values: torch.Tensor, group: int, layer: str) -> torch.Tensor:
    """View ``[N, K]`` as ``[N, K / group, group]``.

    Raises:
        PrecisionError: K is not a multiple of the group.
    """
    if values.shape[1] % group:
        raise PrecisionError(
            f"The layer '{layer}' has K = {values.shape[1]}, which is no multiple of the group "
            f"{group}.",
            hint="Use a scheme with a smaller group, or int8, for it.",
            reason="SchemeDoesNotFit",
        )
    return values.reshape(values.shape[0], -1, group)


def best_grid(
    groups: torch.Tensor,
    *,
    symmetric: bool,
    importance: torch.Tensor | None = None,
    shrinks: Sequence[float] = (1.0,),
) -> Grid:
    """The int4 grid of each group ``[..., G, g]`` with the least squared error of its candidates.

    Args:
        groups: fp32 values.
        symmetric: without zero points.
        importance: how much the error of a column counts, ``[G, g]``; absent: all the same.
        shrinks: parts of the range to try besides; less than 1 clips outliers for finer steps.
    """
    best: Grid | None = None
    least = torch.empty(0)
    # Errors are compared in units of the largest magnitude: squares of the values may not fit.
    peak = _usable(groups.abs().amax(-1, keepdim=True))
    units = groups / peak
    for shrink in shrinks:
        for grid in _candidates(groups, symmetric, shrink):
            local = Grid(grid.scale / peak, grid.zero_point)
            squares = (local.value_of(local.round(units)) - units).square_()
            if importance is not None:
                squares *= importance
            error = squares.sum(-1, keepdim=True)
            if best is None:
                best, least = grid, error
                continue
            better = error < least
            least = torch.where(better, error, least)
            best = _merged(better, grid, best)
    assert best is not None  # there is at least one shrink
    return best


def _merged(better: torch.Tensor, new: Grid, old: Grid) -> Grid:
    points = None
    if new.zero_point is not None and old.zero_point is not None:
        points = torch.where(better, new.zero_point, old.zero_point)
    return Grid(torch.where(better, new.scale, old.scale), points)


def _candidates(groups: torch.Tensor, symmetric: bool, shrink: float) -> list[Grid]:
    if symmetric:
        peak = groups.abs().amax(-1, keepdim=True) * shrink
        return [Grid(_stored(peak / steps), None) for steps in INT4_STEPS]
    # Zero must be representable, or padding and pruned weights would not stay zero.
    low = groups.amin(-1, keepdim=True).clamp(max=0) * shrink
    high = groups.amax(-1, keepdim=True).clamp(min=0) * shrink
    scale = _stored((high / 2 - low / 2) / 7.5)  # their difference may be infinite
    return [Grid(scale, (-8 - torch.round(low / scale)).clamp_(-8, 7))]


def pack_groups(rounded: torch.Tensor, grid: Grid, scheme: Scheme) -> QuantizedWeight:
    """An int4 weight from values ``[N, G, g]`` in [-8, 7] and their grid ``[N, G, 1]``."""
    rows, columns = rounded.shape[0], rounded.shape[1] * rounded.shape[2]
    points = grid.zero_point
    return QuantizedWeight(
        scheme="int4",
        data=pack_int4(rounded.reshape(rows, columns).to(torch.int8)),
        scale=grid.scale.squeeze(-1).contiguous(),
        zero_point=None if points is None else points.squeeze(-1).to(torch.int8),
        group_size=scheme.group_size,
        shape=(rows, columns),
    )


def _usable(scale: torch.Tensor) -> torch.Tensor:
    """Scales by which one can divide: zeros and what is too small become 1."""
    return torch.where(scale < TINY, 1.0, scale)


def _stored(scale: torch.Tensor) -> torch.Tensor:
    """A group's scale as it will be read back."""
    return _usable(scale.to(SCALE_DTYPE).float())
