"""float8 activations times float8 weights, scales for 1 x 128 and 128 x 128 blocks.

``y = q(x) W^T + bias``, optionally GELU: the block-wise FP8 of DeepSeek-V3 (arXiv:2412.19437,
section 3.3). Shapes: ``x [M, K]`` float16, bfloat16 or float32; weights ``fp8-block`` of
``QuantizedWeight`` ``[N, K]``; ``bias [N]`` any float; ``y [M, N]`` in x's dtype. 128 features of
a token share a scale, and so do squares of the weight. The sum of 128 products is scaled and added
in float32, which also bounds what Hopper's tensor cores lose. Needs compute capability 8.9.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from deepseek_kernels.configuration import KernelConfig, config_for
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import quantize_activations
from deepseek_kernels.ops.common import (
    check_operands,
    device_of,
    finish,
    reference_linear,
    require_fp8_support,
)
from deepseek_kernels.ops.scaled_product import tile_of
from deepseek_kernels.weights import BLOCK, QuantizedWeight

__all__ = ["block_product_kernel", "fp8_block", "launch", "reference"]


@triton.jit
def block_product_kernel(
    x: tl.tensor,
    weights: tl.tensor,
    x_scale: tl.tensor,
    w_scale: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    SQUARES: tl.tensor,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
) -> None:
    """One program: a tile ``[BLOCK_M, BLOCK_N]`` of the product; its columns lie in one square.

    SQUARES counts the scales along K.
    """
    rows, columns = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    k = tl.arange(0, 128)
    left_at = x + rows[:, None] * K + k[None, :]
    right_at = weights + columns[None, :] * K + k[:, None]
    square_at = w_scale + tl.min(columns, 0) // 128 * SQUARES
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for square in range(SQUARES):
        inside = k < K - square * 128
        left = tl.load(
            left_at + square * 128, mask=(rows < M)[:, None] & inside[None, :], other=0.0
        )
        right = tl.load(
            right_at + square * 128, mask=(columns < N)[None, :] & inside[:, None], other=0.0
        )
        scale = tl.load(x_scale + rows * SQUARES + square, mask=rows < M, other=0.0)
        scale *= tl.load(square_at + square)
        total += tl.dot(left, right) * scale[:, None]
    mask = (rows < M)[:, None] & (columns < N)[None, :]
    total = finish(total, bias + columns[None, :], (columns < N)[None, :], HAS_BIAS, GELU)
    to = out + rows.to(tl.int64)[:, None] * N + columns[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=mask)


def launch(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    config: KernelConfig | None = None,
) -> torch.Tensor:
    """Quantize ``x`` and multiply with Triton kernels wherever the tensors are.

    Args:
        x: ``[M, K]``; rows may lie apart.
        weight: fp8-block ``[N, K]``.
        bias: ``[N]``.
        gelu: apply GELU (with the error function) at the end.
        config: tile sizes; None looks them up for the device and shape.

    Raises:
        KernelArgumentError: a wrong argument.
        KernelUnavailableError: a GPU without fp8.
    """
    x = _checked(x, weight, bias)
    (M, K), N = x.shape, weight.shape[0]
    out = x.new_empty(M, N)
    if M == 0:
        return out
    values, scale = quantize_activations.launch(x, "fp8-blocks")
    config = config or config_for("fp8_block", M, N, K, x.device)
    if config.block_n > BLOCK:
        raise KernelArgumentError(f"block_n: {config.block_n} is wider than a square; give 128")
    tiles = triton.cdiv(M, config.block_m) * triton.cdiv(N, config.block_n)
    with device_of(x):
        block_product_kernel[(tiles,)](
            values,
            weight.data,
            scale,
            weight.scale,
            out if bias is None else bias,
            out,
            M,
            N,
            K,
            weight.scale.shape[1],
            HAS_BIAS=bias is not None,
            GELU=gelu,
            BLOCK_M=config.block_m,
            BLOCK_N=config.block_n,
            GROUP_M=config.group_m,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return out


def reference(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    accumulate: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The same in plain torch, in float32 (or float64, and the result stays float64)."""
    x = _checked(x, weight, bias)
    values, scale = quantize_activations.reference(x, "fp8-blocks")
    wide = scale.to(accumulate).repeat_interleave(BLOCK, 1)[:, : x.shape[1]]
    left = values.to(accumulate) * wide
    dense = weight.dequantize(accumulate)
    return reference_linear(left, dense, bias, gelu=gelu, accumulate=accumulate, dtype=x.dtype)


@torch.library.custom_op("deepseek::fp8_block", mutates_args=(), device_types="cpu")
def fp8_block(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    """``x [M, K]``, quantized, times an fp8-block weight given as its tensors; see the module."""
    return reference(x, _weight(data, scale), bias, gelu=gelu)


@fp8_block.register_kernel("cuda")
def _on_gpu(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    return launch(x, _weight(data, scale), bias, gelu=gelu)


@fp8_block.register_fake
def _shape(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], data.shape[0])


def _weight(data: torch.Tensor, scale: torch.Tensor) -> QuantizedWeight:
    return QuantizedWeight("fp8-block", data, scale, (data.shape[0], data.shape[1]))


def _checked(x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None) -> torch.Tensor:
    if weight.scheme != "fp8-block":
        raise KernelArgumentError(f"weight: is {weight.scheme}; give fp8-block")
    require_fp8_support(x.device)
    return check_operands(x, weight, bias)
