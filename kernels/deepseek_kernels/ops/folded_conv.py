"""Convolution, batch normalization and ReLU as one convolution and one pass over its result.

Why it exists: at inference a batch normalization is a factor and an offset for each channel. Folded
into the convolution's weights and bias it costs nothing, and bias, an optional residual and ReLU
are then one Triton kernel (``conv_epilogue``) after the convolution, which stays cuDNN's. Folding
is exact up to rounding: it is computed in float64 and rounded once. Not for training.

``y = act(conv(x, w) + b [+ residual])`` with ``w' = w * f`` and ``b' = (b - mean) * f + beta``,
``f = gamma / sqrt(var + eps)`` for each output channel. Stride, padding, dilation and groups do not
matter to it; transposed convolutions (channels on the second axis) are refused.
"""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.elementwise import (
    check_float,
    check_like,
    on_device_of,
    tile,
)

__all__ = [
    "conv_epilogue",
    "fold_batch_norm",
    "fold_modules",
    "folded_conv2d",
    "launch",
    "reference",
]

Convolution = TypeVar("Convolution", nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batch_norm(
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Fold a batch normalization into the weights and the bias of the convolution before it.

    Args:
        weight: ``[C_out, C_in / groups, ...]``.
        bias: ``[C_out]`` or None for zero.
        running_mean: ``[C_out]``.
        running_var: ``[C_out]``.
        gamma: factor ``[C_out]``, or None for one.
        beta: offset ``[C_out]``, or None for zero.
        eps: what the normalization adds to the variance.

    Returns:
        New weights and a new bias in the type of ``weight``.

    Raises:
        KernelArgumentError: a statistic or parameter does not have one number for each output
            channel, or the result is not finite (NaN in the input, a variance of ``-eps`` or less,
            or a factor too large for the type).
    """
    check_float("weight", weight)
    channels = weight.shape[0] if weight.dim() else 0
    parts = {
        "bias": bias,
        "running_mean": running_mean,
        "running_var": running_var,
        "gamma": gamma,
        "beta": beta,
    }
    wide: dict[str, Tensor | None] = {}
    for name, part in parts.items():
        if part is not None:
            check_like(name, part, (channels,), weight)
        wide[name] = None if part is None else part.detach().double()
    mean, variance = wide["running_mean"], wide["running_var"]
    assert mean is not None
    assert variance is not None
    if not bool((variance + eps > 0).all()):
        raise KernelArgumentError(
            f"running_var: plus eps {eps} is not above zero in every channel; repair the statistics"
        )
    factor = (variance + eps).rsqrt()
    if wide["gamma"] is not None:
        factor = factor * wide["gamma"]
    shifted = -mean if wide["bias"] is None else wide["bias"] - mean
    offset = shifted * factor
    if wide["beta"] is not None:
        offset = offset + wide["beta"]
    scaled = weight.detach().double() * factor.reshape(-1, *[1] * (weight.dim() - 1))
    folded = scaled.to(weight.dtype), offset.to(weight.dtype)
    if not all(bool(part.isfinite().all()) for part in folded):
        raise KernelArgumentError(
            f"weight: folded it is not finite in {weight.dtype}; check weights and statistics for "
            "NaN and for variances near zero, or fold in float32"
        )
    return folded


def fold_modules(convolution: Convolution, normalization: nn.Module) -> Convolution:
    """A copy of a convolution, in ``eval``, with the batch normalization after it folded in.

    Raises:
        KernelArgumentError: a transposed convolution, no batch normalization, one that normalizes
            by the statistics of the batch (training mode, or none were kept), or another number of
            channels.
    """
    if not isinstance(convolution, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise KernelArgumentError(
            f"convolution: is a {type(convolution).__name__}; give a Conv1d, Conv2d or Conv3d"
        )
    if not isinstance(normalization, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        raise KernelArgumentError(
            f"normalization: is a {type(normalization).__name__}; give a BatchNorm1d, 2d or 3d"
        )
    if normalization.training or normalization.running_mean is None:
        raise KernelArgumentError(
            "normalization: takes its statistics from each batch; call eval() on it, and use one "
            "that tracks running statistics"
        )
    assert normalization.running_var is not None
    weight, bias = fold_batch_norm(
        convolution.weight,
        convolution.bias,
        normalization.running_mean,
        normalization.running_var,
        normalization.weight,
        normalization.bias,
        normalization.eps,
    )
    folded = copy.deepcopy(convolution).eval()
    folded.weight = nn.Parameter(weight, requires_grad=False)
    folded.bias = nn.Parameter(bias, requires_grad=False)
    return folded


def folded_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | Literal["same", "valid"] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    residual: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """A convolution with a folded bias, optional residual and ReLU: ``[B, C_out, H', W']``.

    Raises:
        KernelArgumentError: bias or residual do not fit the convolution's result.
    """
    result = nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)
    return conv_epilogue(result, bias, residual, relu=relu)


def conv_epilogue(
    x: Tensor, bias: Tensor, residual: Tensor | None = None, *, relu: bool = True
) -> Tensor:
    """``act(x + bias[channel] + residual)`` in one pass; computed in float32.

    Args:
        x: ``[B, C, ...]``, contiguous or channels-last; other strides are copied first.
        bias: ``[C]``, float32, float16 or bfloat16.
        residual: shape of x, any strides.
        relu: apply ReLU. NaN stays NaN.

    Returns:
        A new tensor with the shape, type and memory format of x.

    Raises:
        KernelArgumentError: another type, or shapes that do not fit.
    """
    check_float("x", x)
    if x.dim() < 2:
        raise KernelArgumentError(f"x: has the shape {list(x.shape)}; give [B, C, ...]")
    check_like("bias", bias, (x.shape[1],), x)
    if residual is not None:
        check_like("residual", residual, tuple(x.shape), x)
    result: Tensor = _operation(x, bias, residual, relu)
    return result


def reference(x: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """The epilogue in plain torch, in float32."""
    result = x.float() + bias.float().reshape(-1, *[1] * (x.dim() - 2))
    if residual is not None:
        result = result + residual.float()
    return (result.relu() if relu else result).to(x.dtype).contiguous(memory_format=_format(x))


@triton.jit
def _kernel(
    x_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    y_ptr: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    CHANNELS_LAST: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    at = row[:, None] * width + column[None, :]
    inside = (row < rows)[:, None] & (column < width)[None, :]
    y = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if CHANNELS_LAST:
        bias = tl.load(bias_ptr + column, mask=column < width, other=0.0)[None, :]
    else:
        bias = tl.load(bias_ptr + row % channels, mask=row < rows, other=0.0)[:, None]
    y += bias.to(tl.float32)
    if HAS_RESIDUAL:
        y += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        # Not a maximum: that would turn NaN into 0.
        y = tl.where(y < 0.0, 0.0, y)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def launch(x: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """The epilogue by the Triton kernel; the arguments were checked by ``conv_epilogue``."""
    layout = _format(x)
    x = x.contiguous(memory_format=layout)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    if residual is not None:
        residual = residual.contiguous(memory_format=layout)
    channels_last = layout is not torch.contiguous_format or x.dim() == 2
    # A row is a pixel's channels, or a channel's pixels.
    width = x.shape[1] if channels_last else x[0, 0].numel()
    rows, (tile_rows, tile_columns) = x.numel() // width, tile(width)
    with on_device_of(x):
        _kernel[(triton.cdiv(rows, tile_rows), triton.cdiv(width, tile_columns))](
            x,
            bias.contiguous(),
            x if residual is None else residual,
            y,
            rows,
            width,
            x.shape[1],
            CHANNELS_LAST=channels_last,
            HAS_RESIDUAL=residual is not None,
            RELU=relu,
            ROWS=tile_rows,
            COLUMNS=tile_columns,
        )
    return y


@torch.library.custom_op("deepseek::conv_epilogue", mutates_args=(), device_types="cpu")
def _operation(x: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    return reference(x, bias, residual, relu)


_operation.register_kernel("cuda")(launch)


@_operation.register_fake
def _shapes(x: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    return torch.empty_like(x.contiguous(memory_format=_format(x)))


def _format(x: Tensor) -> torch.memory_format:
    for dims, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.dim() == dims and not x.is_contiguous() and x.is_contiguous(memory_format=layout):
            return layout
    return torch.contiguous_format
