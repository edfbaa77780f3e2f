"""What elementwise and quantizing kernels share: scales, rounding, tiles, checks of arguments.

Why it exists: one rule for "how does a number become int8 or fp8" holds in every kernel and every
reference. The rule and its plain torch form are in ``deepseek_kernels.rounding``; this is the form
that kernels call. Not an operation, and not to be imported outside of this package.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.rounding import LIMITS, limit_of, quantize_rows, scale_of

__all__ = [
    "FLOATS",
    "LIMITS",
    "RowTile",
    "check_float",
    "check_like",
    "check_rows",
    "gelu",
    "gelu_tanh",
    "limit_of",
    "magnitude",
    "on_device_of",
    "quantize_rows",
    "round_to",
    "row_tile",
    "scale_of",
    "symmetric_scale",
    "tile",
]

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
"""Types that the kernels read; all of them are computed with in float32."""

_SMALLEST: tl.constexpr = tl.constexpr(2.0**-126)
_HALF_ROOT: tl.constexpr = tl.constexpr(0.7071067811865476)
_TWICE_ROOT: tl.constexpr = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi)
_INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def magnitude(values: tl.tensor) -> tl.tensor:
    """|values| with NaN as infinity, because a maximum on the GPU ignores NaN."""
    return tl.where(values != values, _INFINITY, tl.abs(values))


@triton.jit
def gelu(x: tl.tensor) -> tl.tensor:
    """``x Phi(x)`` by the error function, float32."""
    return 0.5 * x * (1.0 + tl.erf(x * _HALF_ROOT))


@triton.jit
def gelu_tanh(x: tl.tensor) -> tl.tensor:
    """Its approximation by tanh, float32: (1 + tanh u) / 2 is the logistic function of 2 u."""
    return x * tl.sigmoid((x + 0.044715 * x * x * x) * _TWICE_ROOT)


@triton.jit
def symmetric_scale(largest: tl.tensor, LIMIT: tl.constexpr) -> tl.tensor:
    """The scale of groups whose largest magnitudes (as of ``magnitude``) are given."""
    scale = tl.maximum(tl.div_rn(largest, LIMIT), _SMALLEST)
    scale = tl.where(largest == 0.0, 1.0, scale)
    return tl.where(largest == _INFINITY, float("nan"), scale)


@triton.jit
def round_to(scaled: tl.tensor, LIMIT: tl.constexpr, IS_INT8: tl.constexpr) -> tl.tensor:
    """Round numbers that were divided by their scale to int8 or e4m3; NaN becomes 0."""
    scaled = tl.where(scaled != scaled, 0.0, scaled)
    scaled = tl.minimum(tl.maximum(scaled, -LIMIT), LIMIT)
    # Adding and subtracting 1.5 * 2**(23 + e) leaves multiples of 2**e, halves to even. It works in
    # Triton's interpreter, which has no libdevice and whose own rounding to e4m3 loses the carry
    # into the exponent (127.2 becomes 64).
    if IS_INT8:
        rounded = ((scaled + 12582912.0) - 12582912.0).to(tl.int8)
    else:
        # Three bits of mantissa: e is 3 below the number's own exponent, and -9 at least.
        exponent = tl.maximum(scaled.to(tl.int32, bitcast=True) & 0x7F800000, 0x3C800000)
        unit = (exponent + (20 << 23)).to(tl.float32, bitcast=True) * 1.5
        rounded = ((scaled + unit) - unit).to(tl.float8e4nv)
    return rounded


def on_device_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Make the tensor's GPU the current one: Triton launches there. Nothing for a CPU."""
    guard: AbstractContextManager[None] = torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]
    return guard


def check_float(name: str, tensor: object) -> None:
    """Refuse what is no tensor of a floating point type that the kernels read.

    Raises:
        KernelArgumentError: names the argument, what it is and how to convert it.
    """
    if not isinstance(tensor, Tensor):
        raise KernelArgumentError(
            f"{name}: is a {type(tensor).__name__}; give a torch.Tensor (torch.as_tensor makes one)"
        )
    if tensor.dtype not in FLOATS:
        raise KernelArgumentError(
            f"{name}: is {tensor.dtype}; convert it to float32, float16 or bfloat16"
        )


def check_like(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Refuse a tensor of another shape or on another device than its partner.

    Raises:
        KernelArgumentError: names the argument, its shape or device, and the one that is needed.
    """
    check_float(name, tensor)
    if tuple(tensor.shape) != tuple(shape):
        raise KernelArgumentError(f"{name}: has the shape {list(tensor.shape)}; give {list(shape)}")
    if tensor.device != like.device:
        raise KernelArgumentError(f"{name}: is on {tensor.device}; move it to {like.device}")


def tile(width: int) -> tuple[int, int]:
    """Rows and columns, powers of two, of a tile of 1024 elements for rows of this width."""
    columns = min(1024, triton.next_power_of_2(width))
    return 1024 // columns, columns


class RowTile(NamedTuple):
    """How many whole rows a program holds in registers, and the warps that hold them."""

    rows: int
    columns: int
    warps: int


def row_tile(width: int) -> RowTile:
    """The tile for rows that are read once: 2048 elements or one row, 16 to 32 for each thread."""
    columns = triton.next_power_of_2(max(1, width))
    rows = max(1, 2048 // columns)
    return RowTile(rows, columns, min(32, max(4, rows * columns // 1024)))


def check_rows(name: str, tensor: Tensor, limit: int) -> None:
    """Refuse what has no rows or rows too long for the registers of one program.

    Raises:
        KernelArgumentError: names the argument, its shape and the limit.
    """
    check_float(name, tensor)
    if tensor.dim() == 0 or tensor.shape[-1] > limit:
        raise KernelArgumentError(
            f"{name}: has the shape {list(tensor.shape)}; give [..., N] with N up to {limit}"
        )
