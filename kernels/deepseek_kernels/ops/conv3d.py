"""3D convolution with float32 accumulation, as an implicit matrix product.

Why it exists: volumes (CT, MR) need 3D convolutions in float16 whose sums over hundreds of products
stay in float32, with bias and ReLU in the same pass. The kernel gathers its operand from the volume
itself, so the unfolded matrix, 27 times the volume for a 3x3x3 kernel, never exists. Whether it
beats cuDNN is a matter of shapes and measured, not assumed.

Layout: x ``[B, C_in, D, H, W]`` and w ``[C_out, C_in, kD, kH, kW]``, both contiguous; y
``[B, C_out, D', H', W']`` with ``D' = (D + 2 pad - dil (kD - 1) - 1) // stride + 1``, likewise for
H and W. As a product of one sample: ``[C_out, K] x [K, P]`` with K = C_in kD kH kW products for
each of P = D' H' W' positions. Positions are the last axis, so that neighbouring threads read and
write neighbouring numbers.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseek_kernels.configuration import KernelConfig, config_for
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.elementwise import (
    check_float,
    check_like,
    on_device_of,
)

__all__ = ["conv3d", "launch", "reference"]

Triple = int | tuple[int, int, int]


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Triple = 1,
    padding: Triple = 0,
    dilation: Triple = 1,
    relu: bool = False,
) -> Tensor:
    """Convolve volumes; products are summed in float32, bias and ReLU applied before rounding.

    Args:
        x: ``[B, C_in, D, H, W]``, float16, bfloat16 or float32; other strides are copied first.
        weight: ``[C_out, C_in, kD, kH, kW]``, type of x.
        bias: ``[C_out]``.
        stride: of the window, at least 1, one number or one for each of D, H and W.
        padding: zeros on both sides of each axis.
        dilation: distance of the window's elements.
        relu: set negative results to zero.

    Returns:
        ``[B, C_out, D', H', W']`` of the type of x.

    Raises:
        KernelArgumentError: shapes or types do not fit, a setting is out of range, or one sample
            has 2**31 numbers or more.
    """
    check_float("x", x)
    check_float("weight", weight)
    if x.dim() != 5 or weight.dim() != 5 or x.shape[1] != weight.shape[1]:
        raise KernelArgumentError(
            f"weight: {list(weight.shape)} does not fit x {list(x.shape)}; give x "
            "[B, C_in, D, H, W] and weight [C_out, C_in, kD, kH, kW]"
        )
    check_like("weight", weight, tuple(weight.shape), x)
    if weight.dtype != x.dtype:
        raise KernelArgumentError(f"weight: is {weight.dtype}; convert it to {x.dtype}")
    if bias is not None:
        check_like("bias", bias, (weight.shape[0],), x)
    settings = _settings(stride, padding, dilation)
    sizes = _output_size(x, weight, settings)
    if min(sizes) < 1:
        raise KernelArgumentError(
            f"padding: the window is larger than the padded volume {list(x.shape[2:])}; "
            "use a larger volume, more padding or a smaller window"
        )
    if max(math.prod(x.shape[1:]), weight.shape[0] * math.prod(sizes)) >= 2**31:
        raise KernelArgumentError("x: a sample has 2**31 numbers or more; divide it into patches")
    result: Tensor = _operation(x, weight, bias, settings, relu)
    return result


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    settings: list[int],
    relu: bool,
    accumulate: torch.dtype = torch.float64,
) -> Tensor:
    """The convolution in plain torch, in float64 unless told otherwise."""
    result = torch.nn.functional.conv3d(
        x.to(accumulate),
        weight.to(accumulate),
        None if bias is None else bias.to(accumulate),
        settings[0:3],
        settings[3:6],
        settings[6:9],
    )
    return (result.relu() if relu else result).to(x.dtype)


@triton.jit
def _kernel(
    x_ptr: tl.tensor,
    w_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    y_ptr: tl.tensor,
    channels_in: tl.tensor,
    depth: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels_out: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    positions: tl.tensor,
    stride_d: tl.tensor,
    stride_h: tl.tensor,
    stride_w: tl.tensor,
    pad_d: tl.tensor,
    pad_h: tl.tensor,
    pad_w: tl.tensor,
    KD: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    DIL_D: tl.constexpr,
    DIL_H: tl.constexpr,
    DIL_W: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    taps = channels_in * KD * KH * KW
    blocks = tl.cdiv(positions, BLOCK_P)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    p = (tl.program_id(0) % blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    # Where the window of each position begins; may lie in the padding.
    first_d = p // (out_width * out_height) * stride_d - pad_d
    first_h = p // out_width % out_height * stride_h - pad_h
    first_w = p % out_width * stride_w - pad_w
    x_ptr += sample * channels_in * depth * height * width
    y_ptr += sample * channels_out * positions
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for start in range(0, taps, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        held = (c < channels_out)[:, None] & (k < taps)[None, :]
        a = tl.load(w_ptr + c[:, None] * taps + k[None, :], mask=held, other=0.0)
        channel = k // (KD * KH * KW)
        d = (k // (KH * KW) % KD * DIL_D)[:, None] + first_d[None, :]
        h = (k // KW % KH * DIL_H)[:, None] + first_h[None, :]
        w = (k % KW * DIL_W)[:, None] + first_w[None, :]
        inside = (k < taps)[:, None] & (p < positions)[None, :]
        inside = inside & (d >= 0) & (d < depth) & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        source = ((channel[:, None] * depth + d) * height + h) * width + w
        b = tl.load(x_ptr + source, mask=inside, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    if HAS_BIAS:
        total += tl.load(bias_ptr + c, mask=c < channels_out, other=0.0).to(tl.float32)[:, None]
    if RELU:
        # Not a maximum: that would turn NaN into 0.
        total = tl.where(total < 0.0, 0.0, total)
    target = c[:, None] * positions + p[None, :]
    mask = (c < channels_out)[:, None] & (p < positions)[None, :]
    tl.store(y_ptr + target, total.to(y_ptr.dtype.element_ty), mask=mask)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    settings: list[int],
    relu: bool,
    config: KernelConfig | None = None,
) -> Tensor:
    """The convolution by the Triton kernel; the arguments were checked by ``conv3d``.

    ``config`` overrides the tiles of the GPU's table: ``block_m`` channels, ``block_n`` positions.
    """
    x, weight = x.contiguous(), weight.contiguous()
    sizes = _output_size(x, weight, settings)
    y = torch.empty((len(x), weight.shape[0], *sizes), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    channels, positions, taps = weight.shape[0], math.prod(sizes), weight[0].numel()
    config = config or config_for("conv3d", channels, positions, taps, x.device)
    blocks = triton.cdiv(positions, config.block_n)
    with on_device_of(x):
        _kernel[(len(x) * blocks, triton.cdiv(channels, config.block_m))](
            x,
            weight,
            weight if bias is None else bias.contiguous(),
            y,
            *x.shape[1:],
            channels,
            *sizes[1:],
            positions,
            *settings[0:6],
            *weight.shape[2:],
            *settings[6:9],
            HAS_BIAS=bias is not None,
            RELU=relu,
            BLOCK_C=config.block_m,
            BLOCK_P=config.block_n,
            BLOCK_K=config.block_k,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return y


@torch.library.custom_op("deepseek::conv3d", mutates_args=(), device_types="cpu")
def _operation(
    x: Tensor, weight: Tensor, bias: Tensor | None, settings: list[int], relu: bool
) -> Tensor:
    return reference(x, weight, bias, settings, relu, torch.float32)


_operation.register_kernel("cuda")(launch)


@_operation.register_fake
def _shapes(
    x: Tensor, weight: Tensor, bias: Tensor | None, settings: list[int], relu: bool
) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], *_output_size(x, weight, settings)))


def _settings(stride: Triple, padding: Triple, dilation: Triple) -> list[int]:
    """Nine numbers: stride, padding and dilation for D, H and W each."""
    flat: list[int] = []
    given = (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
    for name, value, least in given:
        three = (value,) * 3 if isinstance(value, int) else tuple(value)
        if len(three) != 3 or min(three) < least:
            raise KernelArgumentError(
                f"{name}: {value}; give one number or three of at least {least}"
            )
        flat += three
    return flat


def _output_size(x: Tensor, weight: Tensor, settings: list[int]) -> tuple[int, int, int]:
    depth, height, width = (
        (x.shape[2 + axis] + 2 * settings[3 + axis] - settings[6 + axis] * (window - 1) - 1)
        // settings[axis]
        + 1
        for axis, window in enumerate(weight.shape[2:])
    )
    return depth, height, width
