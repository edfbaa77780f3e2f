"""Layer or RMS norm with a residual before it and int8 or fp8 rows after it, in one pass.

Why it exists: a quantized product wants its input as 8-bit rows with a scale each. Norm, residual
and quantization apart read and write the activations five times; here each number is read once and
written once in one byte (and once more as the new residual). Not for training: nothing is kept for
a gradient.

``add_norm`` is the same kernel without the quantization.

Shapes: x, residual ``[..., N]``; weight, bias ``[N]``; values ``[..., N]`` int8 or float8_e4m3fn;
scales float32 ``[...]``, one for each row: ``norm(x) ~ values * scales``. Sums are float32. A row
with NaN or infinity gets the scale NaN, so that every product with it is NaN; the rest of the rule
is that of ``ops.elementwise``.
"""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.common import require_fp8_support
from deepseek_kernels.ops.elementwise import (
    FLOATS,
    check_like,
    check_rows,
    limit_of,
    magnitude,
    on_device_of,
    quantize_rows,
    round_to,
    row_tile,
    symmetric_scale,
)

__all__ = ["MAX_WIDTH", "add_norm_quantize", "check_norm", "launch", "norm_quantize", "reference"]

Kind = Literal["layer", "rms"]
MAX_WIDTH = 16384
"""Longest row that a program holds in registers, with all that is optional."""


def norm_quantize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: Kind = "layer",
    eps: float = 1e-5,
    out_dtype: torch.dtype = torch.int8,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor]:
    """Normalize rows and quantize each with a scale of its own.

    Args:
        x: ``[..., N]``, float32, float16 or bfloat16 of any strides.
        weight: ``[N]``.
        bias: ``[N]`` or None.
        kind: ``layer`` (subtracts the mean) or ``rms``.
        eps: added to the variance or the mean square.
        out_dtype: int8 or float8_e4m3fn.
        unit_offset: multiply by ``1 + weight``, as Gemma does.

    Returns:
        Values and scales.

    Raises:
        KernelArgumentError: shapes, types or settings do not fit, or N is above 16384.
        KernelUnavailableError: fp8 on a GPU that has none.
    """
    check_norm(x, weight, bias, kind)
    limit_of(out_dtype)
    result: tuple[Tensor, Tensor] = _plain(
        x, weight, bias, kind == "rms", eps, out_dtype, unit_offset
    )
    return result


def add_norm_quantize(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: Kind = "layer",
    eps: float = 1e-5,
    out_dtype: torch.dtype = torch.int8,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Like ``norm_quantize`` of ``x + residual``, which is given back too.

    Args:
        x: ``[..., N]``, float32, float16 or bfloat16 of any strides.
        residual: shape and type of x.
        weight: ``[N]``.
        bias: ``[N]`` or None.
        kind: ``layer`` (subtracts the mean) or ``rms``.
        eps: added to the variance or the mean square.
        out_dtype: int8 or float8_e4m3fn.
        unit_offset: multiply by ``1 + weight``, as Gemma does.

    Returns:
        Values, scales, and the sum in the type of x; the norm is that of the rounded sum, so that
        it is the same as that of the sum that the next layer sees.

    Raises:
        KernelArgumentError: shapes, types or settings do not fit, or N is above 16384.
        KernelUnavailableError: fp8 on a GPU that has none.
    """
    check_norm(x, weight, bias, kind)
    limit_of(out_dtype)
    check_like("residual", residual, tuple(x.shape), x)
    if residual.dtype != x.dtype:
        raise KernelArgumentError(f"residual: is {residual.dtype}; convert it to {x.dtype}")
    result: tuple[Tensor, Tensor, Tensor] = _added(
        x, residual, weight, bias, kind == "rms", eps, out_dtype, unit_offset
    )
    return result


def reference(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    rms: bool,
    eps: float,
    out_dtype: torch.dtype,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, scales and the sum in plain torch, in float32; no scales if nothing is quantized."""
    total = (x if residual is None else (x.float() + residual.float()).to(x.dtype)).contiguous()
    wide = total.float()
    if rms:
        normal = wide * (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    else:
        centred = wide - wide.mean(dim=-1, keepdim=True)
        normal = centred * (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    normal = normal * (weight.float() + (1.0 if unit_offset else 0.0))
    if bias is not None:
        normal = normal + bias.float()
    if out_dtype in FLOATS:
        return normal.to(out_dtype), normal.new_empty(0), total
    return *quantize_rows(normal, out_dtype), total


@triton.jit
def _kernel(
    x_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    values_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    RMS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    UNIT_OFFSET: tl.constexpr,
    QUANTIZE: tl.constexpr,
    IS_INT8: tl.constexpr,
    LIMIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    held = column < width
    at = row[:, None] * width + column[None, :]
    inside = (row < rows)[:, None] & held[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=inside)
        x = rounded.to(tl.float32)
    if not RMS:
        mean = tl.sum(x, 1) / width
        x = tl.where(inside, x - mean[:, None], 0.0)
    x *= tl.rsqrt(tl.sum(x * x, 1) / width + eps)[:, None]
    weight = tl.load(weight_ptr + column, mask=held, other=0.0).to(tl.float32)
    if UNIT_OFFSET:
        weight += 1.0
    x *= weight[None, :]
    if HAS_BIAS:
        x += tl.load(bias_ptr + column, mask=held, other=0.0).to(tl.float32)[None, :]
    if QUANTIZE:
        scale = symmetric_scale(tl.max(magnitude(x), 1), LIMIT)
        quantized = round_to(x * tl.div_rn(1.0, scale)[:, None], LIMIT, IS_INT8)
        tl.store(values_ptr + at, quantized, mask=inside)
        tl.store(scales_ptr + row, scale, mask=row < rows)
    else:
        tl.store(values_ptr + at, x.to(values_ptr.dtype.element_ty), mask=inside)


def launch(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    rms: bool,
    eps: float,
    out_dtype: torch.dtype,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, scales and the sum by the Triton kernel; the arguments were checked before.

    A floating point ``out_dtype`` quantizes nothing and fills no scales.
    """
    quantize = out_dtype not in FLOATS
    if quantize and out_dtype is not torch.int8:
        require_fp8_support(x.device)
    x = x.contiguous()
    values, scales, total = _empty(x, out_dtype, with_sum=residual is not None)
    width = x.shape[-1]
    rows, tile = x.numel() // max(1, width), row_tile(width)
    if x.numel():
        with on_device_of(x):
            _kernel[(triton.cdiv(rows, tile.rows),)](
                x,
                x if residual is None else residual.contiguous(),
                weight.contiguous(),
                weight if bias is None else bias.contiguous(),
                values,
                scales,
                total,
                rows,
                width,
                eps,
                RMS=rms,
                HAS_RESIDUAL=residual is not None,
                HAS_BIAS=bias is not None,
                UNIT_OFFSET=unit_offset,
                QUANTIZE=quantize,
                IS_INT8=out_dtype is torch.int8,
                LIMIT=limit_of(out_dtype) if quantize else 0.0,
                ROWS=tile.rows,
                COLUMNS=tile.columns,
                num_warps=tile.warps,
            )
    return values, scales, total


@torch.library.custom_op("deepseek::norm_quantize", mutates_args=(), device_types="cpu")
def _plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rms: bool,
    eps: float,
    out_dtype: torch.dtype,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor]:
    return reference(x, None, weight, bias, rms, eps, out_dtype, unit_offset)[:2]


@_plain.register_kernel("cuda")
def _plain_on_gpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rms: bool,
    eps: float,
    out_dtype: torch.dtype,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor]:
    return launch(x, None, weight, bias, rms, eps, out_dtype, unit_offset)[:2]


@_plain.register_fake
def _plain_shapes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rms: bool,
    eps: float,
    out_dtype: torch.dtype,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor]:
    return _empty(x, out_dtype, with_sum=False)[:2]


@torch.library.custom_op("deepseek::add_norm_quantize", mutates_args=(), device_types="cpu")
def _added(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rms: bool,
    eps: float,
    out_dtype: torch.dtype,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    return reference(x, residual, weight, bias, rms, eps, out_dtype, unit_offset)


_added.register_kernel("cuda")(launch)


@_added.register_fake
def _added_shapes(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rms: bool,
    eps: float,
    out_dtype: torch.dtype,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(x, out_dtype, with_sum=True)


def _empty(x: Tensor, out_dtype: torch.dtype, with_sum: bool) -> tuple[Tensor, Tensor, Tensor]:
    values = x.new_empty(x.shape, dtype=out_dtype)
    scales = x.new_empty(x.shape[:-1], dtype=torch.float32)
    return values, scales, x.new_empty(x.shape) if with_sum else x


def check_norm(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> None:
    """Refuse what no norm takes.

    Raises:
        KernelArgumentError: it names the argument that does not fit.
    """
    check_rows("x", x, MAX_WIDTH)
    check_like("weight", weight, (x.shape[-1],), x)
    if bias is not None:
        check_like("bias", bias, (x.shape[-1],), x)
    if kind not in ("layer", "rms"):
        raise KernelArgumentError(f"kind: is {kind!r}; give 'layer' or 'rms'")
