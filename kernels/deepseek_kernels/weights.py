"""One quantized weight matrix: values, scales, and what they mean.

Why it exists: what preparing writes, what layers hold and what kernels read is the same object, so
that shapes and dtypes are checked once, where it is made. It neither chooses scales
(``deepseek_kernels.quantize`` rounds, the engine calibrates) nor multiplies (``dispatch``).

N counts output features (rows), K input features. A weight is ``(value - zero_point) * scale``:

=========== =========================== ==================================== ======================
scheme      data                        scale (float32)                      zero_point
=========== =========================== ==================================== ======================
int8        int8 ``[N, K]``             ``[N, 1]``                           none
int4        int32 ``[N, ceil(K / 8)]``  ``[N, K / group]``, group 0 is K     none, or int8 as scale
fp8         float8_e4m3fn ``[N, K]``    ``[N, 1]``                           none
fp8-block   float8_e4m3fn ``[N, K]``    ``[ceil(N / 128), ceil(K / 128)]``   none
=========== =========================== ==================================== ======================
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.packing import PER_WORD, TILE, tile_int4, unpack_int4, untile_int4

__all__ = ["BLOCK", "Layout", "QuantizedWeight", "Scheme"]

Scheme = Literal["int8", "int4", "fp8", "fp8-block"]
Layout = Literal["rows", "tiles"]

BLOCK = 128
"""Side of the squares that share a scale in ``fp8-block``."""
_DTYPES = {
    "int8": torch.int8,
    "int4": torch.int32,
    "fp8": torch.float8_e4m3fn,
    "fp8-block": torch.float8_e4m3fn,
}


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """Values and scales of a matrix ``[N, K]``; the module's table has shapes and dtypes.

    Raises:
        KernelArgumentError: a tensor does not have the shape or dtype of its scheme.
    """

    scheme: Scheme
    data: torch.Tensor
    scale: torch.Tensor
    shape: tuple[int, int]
    zero_point: torch.Tensor | None = None
    group_size: int = 0
    """Input features that share a scale in ``int4``; 0 is the whole row."""
    layout: Layout = "rows"
    """Of int4 words: ``rows`` as in checkpoints, ``tiles`` as GPU kernels prefer (``tiled()``)."""

    def __post_init__(self) -> None:
        if self.scheme not in get_args(Scheme):
            raise KernelArgumentError(
                f"scheme: {self.scheme!r} is unknown; give one of {', '.join(get_args(Scheme))}"
            )
        if min(self.shape) < 1:
            raise KernelArgumentError(f"shape: {self.shape} is empty; give N and K above 0")
        if self.layout not in get_args(Layout) or (
            self.layout == "tiles" and self.scheme != "int4"
        ):
            raise KernelArgumentError(f"layout: {self.layout!r} is not one of {self.scheme}")
        self._check_groups()
        _check("data", self.data, _DTYPES[self.scheme], self._data_shape())
        _check("scale", self.scale, torch.float32, self._scale_shape())
        if self.zero_point is not None:
            _check("zero_point", self.zero_point, torch.int8, self._scale_shape())

    def _check_groups(self) -> None:
        if self.scheme != "int4" and (self.group_size or self.zero_point is not None):
            raise KernelArgumentError(
                f"group_size, zero_point: only int4 has them; leave them out for {self.scheme}"
            )
        if self.group_size < 0 or (self.group_size and self.shape[1] % self.group_size):
            raise KernelArgumentError(
                f"group_size: K={self.shape[1]} is not a multiple of {self.group_size}; "
                "give a divisor of K, or 0 for the whole row"
            )

    def _data_shape(self) -> tuple[int, int]:
        rows, columns = self.shape
        if self.scheme != "int4":
            return rows, columns
        if self.layout == "tiles":
            return rows, math.ceil(columns / TILE) * TILE // PER_WORD
        return rows, math.ceil(columns / PER_WORD)

    def _scale_shape(self) -> tuple[int, int]:
        rows, columns = self.shape
        if self.scheme == "fp8-block":
            return math.ceil(rows / BLOCK), math.ceil(columns / BLOCK)
        return rows, columns // self.group_size if self.group_size else 1

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.data.device

    @property
    def nbytes(self) -> int:
        """Bytes of values, scales and zero points."""
        zero_points = 0 if self.zero_point is None else self.zero_point.nbytes
        return self.data.nbytes + self.scale.nbytes + zero_points

    def values(self) -> torch.Tensor:
        """The stored values: int8 or float8 ``[N, K]``, unpacked."""
        if self.scheme != "int4":
            return self.data
        rows = self.data if self.layout == "rows" else untile_int4(self.data, self.shape[1])
        return unpack_int4(rows, self.shape[1])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return ``(value - zero_point) * scale`` as ``[N, K]``, computed in float32.

        With ``torch.float64`` it is computed in float64, as references need it.
        """
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        values, scale = self.values().to(wide), self.scale.to(wide)
        if self.scheme == "fp8-block":
            scale = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
            return values.mul_(scale[: self.shape[0], : self.shape[1]]).to(dtype)
        grouped = values.view(*scale.shape, -1)
        if self.zero_point is not None:
            grouped = grouped - self.zero_point.to(wide).unsqueeze(-1)
        return (grouped * scale.unsqueeze(-1)).flatten(1).to(dtype)

    def tiled(self) -> QuantizedWeight:
        """The same int4 weight with the words in the order that GPU kernels read best.

        Raises:
            KernelArgumentError: the scheme is not int4.
        """
        if self.scheme != "int4":
            raise KernelArgumentError(f"scheme: {self.scheme} has no tiles; only int4 has")
        if self.layout == "tiles":
            return self
        return replace(self, data=tile_int4(self.data), layout="tiles")

    def to(self, device: torch.device | str) -> QuantizedWeight:
        """The same weight on another device."""
        zero_point = None if self.zero_point is None else self.zero_point.to(device)
        return replace(
            self, data=self.data.to(device), scale=self.scale.to(device), zero_point=zero_point
        )


def _check(name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise KernelArgumentError(
            f"{name}: is {tensor.dtype} {list(tensor.shape)}; give {dtype} {list(shape)}"
        )
