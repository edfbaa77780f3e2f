"""Activations of 16 (or 32) bits times 8-bit weights: ``y = x W^T + bias``, optionally GELU.

Shapes: ``x [M, K]`` float16, bfloat16 or float32; weights ``int8`` or ``fp8`` of
``QuantizedWeight`` ``[N, K]`` with a scale for each row; ``bias [N]`` any float; ``y [M, N]`` in
x's dtype. Sums are in float32; a row's scale is applied to its sum. Both kinds of values are exact
in float16 and bfloat16, so nothing but the result is rounded. ``fp8`` needs compute capability
8.9.

As for int4, up to 8 tokens are multiplied without tensor cores, and from 9 on the weights are the
left operand of tensor cores.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from deepseek_kernels.configuration import KernelConfig, config_for
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.common import (
    add_parts,
    check_operands,
    device_of,
    finish,
    processors,
    reference_linear,
    require_fp8_support,
)
from deepseek_kernels.weights import QuantizedWeight, Scheme

__all__ = ["GEMV_MAX_M", "gemm_kernel", "gemv_kernel", "launch", "reference", "w8a16"]

GEMV_MAX_M = 8
_VECTOR = 16
"""Weights in one 16-byte load."""


@triton.jit
def gemv_kernel(
    x: tl.tensor,
    weights: tl.tensor,
    scale: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    stride_x: tl.tensor,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    VECTORS: tl.constexpr,
) -> None:
    """One program: BLOCK_N rows of weights, all tokens, every PARTS-th step of 16 VECTORS."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None, None]
    inside = tl.arange(0, VECTORS)[None, :, None] * 16 + tl.arange(0, 16)[None, None, :]
    sums = (tl.zeros([BLOCK_N, VECTORS], tl.float32),) * BLOCK_M
    for start in range(tl.program_id(1) * VECTORS * 16, K, VECTORS * 16 * PARTS):
        k = start + inside
        value = tl.load(weights + rows * K + k, mask=(rows < N) & (k < K), other=0.0)
        value = value.to(tl.float32)
        longer: tl.tensor = ()
        for m in tl.static_range(BLOCK_M):
            row = tl.minimum(m, M - 1)  # what is past the last token is not stored
            token = tl.load(x + row * stride_x + k, mask=k < K, other=0.0)
            longer = longer + (sums[m] + tl.sum(value * token.to(tl.float32), 2),)
        sums = longer
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    step = tl.load(scale + columns, mask=columns < N, other=0.0)
    for m in tl.static_range(BLOCK_M):
        mask = columns < N * (m < M).to(tl.int32)
        total = tl.sum(sums[m], 1) * step
        if PARTS == 1:
            total = finish(total, bias + columns, mask, HAS_BIAS, GELU)
        to = out + (tl.program_id(1).to(tl.int64) * M + m) * N + columns
        tl.store(to, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def gemm_kernel(
    x: tl.tensor,
    weights: tl.tensor,
    scale: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    stride_x: tl.tensor,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One program: a tile of the transposed product, every PARTS-th step of K."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    tokens = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(tl.program_id(1) * BLOCK_K, K, BLOCK_K * PARTS):
        k = start + tl.arange(0, BLOCK_K)
        value = tl.load(
            weights + rows * K + k[None, :], mask=(rows < N) & (k < K)[None, :], other=0.0
        )
        token = tl.load(
            x + tokens * stride_x + k[:, None], mask=(tokens < M) & (k < K)[:, None], other=0.0
        )
        total = tl.dot(value.to(x.dtype.element_ty), token, total, input_precision="ieee")
    total *= tl.load(scale + rows, mask=rows < N, other=0.0)
    mask = (rows < N) & (tokens < M)
    if PARTS == 1:
        total = finish(total, bias + rows, rows < N, HAS_BIAS, GELU)
    to = out + (tl.program_id(1).to(tl.int64) * M + tokens) * N + rows
    tl.store(to, total.to(out.dtype.element_ty), mask=mask)


def launch(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    config: KernelConfig | None = None,
    gemv: bool | None = None,
) -> torch.Tensor:
    """Run a Triton kernel wherever the tensors are.

    Args:
        x: ``[M, K]``; rows may lie apart.
        weight: int8 or fp8 ``[N, K]``.
        bias: ``[N]``.
        gelu: apply GELU (with the error function) at the end.
        config: tile sizes; None looks them up for the device and shape.
        gemv: which kernel; None takes the GEMV up to 8 tokens.

    Raises:
        KernelArgumentError: a wrong argument.
        KernelUnavailableError: fp8 on a GPU without it.
    """
    N, K = weight.shape
    _require_8_bits(weight)
    x = check_operands(x, weight, bias)
    M = x.shape[0]
    if M == 0:
        return x.new_empty(0, N)
    by_hand = M <= GEMV_MAX_M if gemv is None else gemv
    if by_hand and M > GEMV_MAX_M:
        raise KernelArgumentError(f"x: M={M} is too much for the GEMV; give {GEMV_MAX_M} at most")
    config = config or config_for("w8a16_gemv" if by_hand else "w8a16_gemm", M, N, K, x.device)
    block_m = triton.next_power_of_2(M) if by_hand else config.block_m
    grid_n, grid_m = triton.cdiv(N, config.block_n), triton.cdiv(M, block_m)
    steps = triton.cdiv(K, config.block_k)
    parts = config.parts(grid_n * grid_m, steps, processors(x.device))
    out = x.new_empty(M, N)
    to = out if parts == 1 else x.new_empty(parts, M, N, dtype=torch.float32)
    sizes = {"VECTORS": config.block_k // _VECTOR} if by_hand else {"BLOCK_K": config.block_k}
    kernel = gemv_kernel if by_hand else gemm_kernel
    with device_of(x):
        kernel[(grid_n, parts, grid_m)](
            x,
            weight.data,
            weight.scale,
            x if bias is None else bias,
            to,
            M,
            N,
            K,
            x.stride(0),
            HAS_BIAS=bias is not None,
            GELU=gelu,
            PARTS=parts,
            BLOCK_M=block_m,
            BLOCK_N=config.block_n,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            **sizes,
        )
        if parts > 1:
            add_parts(to, out, bias, gelu=gelu)
    return out


def reference(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    accumulate: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The same in plain torch, in float32 (or float64, and then the result is float64)."""
    return reference_linear(
        x, weight.dequantize(accumulate), bias, gelu=gelu, accumulate=accumulate
    )


@torch.library.custom_op("deepseek::w8a16", mutates_args=(), device_types="cpu")
def w8a16(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    """``x [M, K]`` times an int8 or fp8 weight given as its tensors; see the module for shapes."""
    weight = _weight(data, scale)
    return reference(check_operands(x, weight, bias), weight, bias, gelu=gelu)


@w8a16.register_kernel("cuda")
def _on_gpu(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    return launch(x, _weight(data, scale), bias, gelu=gelu)


@w8a16.register_fake
def _shape(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], data.shape[0])


def _weight(data: torch.Tensor, scale: torch.Tensor) -> QuantizedWeight:
    scheme: Scheme = "int8" if data.dtype == torch.int8 else "fp8"
    return QuantizedWeight(scheme, data, scale, (data.shape[0], data.shape[1]))


def _require_8_bits(weight: QuantizedWeight) -> None:
    if weight.scheme not in ("int8", "fp8"):
        raise KernelArgumentError(f"weight: is {weight.scheme}; give int8 or fp8")
    if weight.scheme == "fp8":
        require_fp8_support(weight.device)
