"""A quantized weight as a dense matrix, on the device: for products too large to be memory-bound.

Shapes: any ``QuantizedWeight`` ``[N, K]`` in, float16, bfloat16 or float32 ``[N, K]`` out; the
values are those of ``QuantizedWeight.dequantize``: ``(value - zero_point) * scale`` in float32,
rounded once.
"""

from __future__ import annotations

from typing import get_args

import torch
import triton
import triton.language as tl

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.common import MAX_ELEMENTS, device_of, require_fp8_support
from deepseek_kernels.weights import BLOCK, Layout, QuantizedWeight, Scheme

__all__ = ["dequantize", "dequantize_kernel", "launch", "reference"]

_BLOCK_N, _BLOCK_K = 16, 256


@triton.jit
def dequantize_kernel(
    data: tl.tensor,
    scale: tl.tensor,
    zero_point: tl.tensor,
    out: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    W: tl.tensor,
    GROUPS: tl.tensor,
    FOUR_BITS: tl.constexpr,
    TILED: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS_PER_SCALE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One program: ``[BLOCK_N, BLOCK_K]`` values; a row of ``data`` has W elements."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    mask = (rows < N) & (k < K)
    if FOUR_BITS:
        at = k // 128 * 16 + k % 16 if TILED else k // 8
        shift = (k % 128 // 16 if TILED else k % 8) * 4
        word = tl.load(data + rows * W + at, mask=mask, other=0)
        value = (((word >> shift) & 15) - 8).to(tl.float32)
    else:
        value = tl.load(data + rows * W + k, mask=mask, other=0.0).to(tl.float32)
    which = rows // ROWS_PER_SCALE * GROUPS + k // GROUP
    if HAS_ZERO:
        value -= tl.load(zero_point + which, mask=mask, other=0).to(tl.float32)
    value *= tl.load(scale + which, mask=mask, other=0.0)
    tl.store(out + rows * K + k, value.to(out.dtype.element_ty), mask=mask)


def launch(weight: QuantizedWeight, dtype: torch.dtype) -> torch.Tensor:
    """Run the Triton kernel wherever the weight is; return ``[N, K]`` of ``dtype``.

    Raises:
        KernelArgumentError: another dtype than float16, bfloat16 or float32, or too large a weight.
        KernelUnavailableError: fp8 on a GPU without it.
    """
    (N, K), fp8 = weight.shape, weight.scheme.startswith("fp8")
    _require_float(dtype)
    if N * K > MAX_ELEMENTS:
        raise KernelArgumentError(f"weight: N={N}, K={K} make more than 2^31 elements; split N")
    if fp8:
        require_fp8_support(weight.device)
    out = torch.empty(N, K, dtype=dtype, device=weight.device)
    grid = (triton.cdiv(N, _BLOCK_N), triton.cdiv(K, _BLOCK_K))
    with device_of(out):
        dequantize_kernel[grid](
            weight.data,
            weight.scale,
            weight.scale if weight.zero_point is None else weight.zero_point,
            out,
            N,
            K,
            weight.data.shape[1],
            weight.scale.shape[1],
            FOUR_BITS=weight.scheme == "int4",
            TILED=weight.layout == "tiles",
            HAS_ZERO=weight.zero_point is not None,
            GROUP=BLOCK if weight.scheme == "fp8-block" else weight.group_size or 1 << 30,
            ROWS_PER_SCALE=BLOCK if weight.scheme == "fp8-block" else 1,
            BLOCK_N=_BLOCK_N,
            BLOCK_K=_BLOCK_K,
            num_warps=4,
        )
    return out


def reference(weight: QuantizedWeight, dtype: torch.dtype) -> torch.Tensor:
    """The same in plain torch; equal to the kernel's, bit by bit."""
    _require_float(dtype)
    return weight.dequantize(dtype)


def _require_float(dtype: torch.dtype) -> None:
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise KernelArgumentError(f"dtype: is {dtype}; give float16, bfloat16 or float32")


@torch.library.custom_op("deepseek::dequantize", mutates_args=(), device_types="cpu")
def dequantize(
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    scheme: str,
    K: int,
    group_size: int,
    tiled: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """A weight, given as its tensors, as a dense ``[N, K]`` of ``dtype``."""
    return reference(_weight(data, scale, zero_point, scheme, K, group_size, tiled), dtype)


@dequantize.register_kernel("cuda")
def _on_gpu(
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    scheme: str,
    K: int,
    group_size: int,
    tiled: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    return launch(_weight(data, scale, zero_point, scheme, K, group_size, tiled), dtype)


@dequantize.register_fake
def _shape(
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    scheme: str,
    K: int,
    group_size: int,
    tiled: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    return data.new_empty(data.shape[0], K, dtype=dtype)


def _weight(
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    scheme: str,
    K: int,
    group_size: int,
    tiled: bool,
) -> QuantizedWeight:
    known: dict[str, Scheme] = {name: name for name in get_args(Scheme)}
    layout: Layout = "tiles" if tiled else "rows"
    if scheme not in known:
        raise KernelArgumentError(f"scheme: {scheme!r} is unknown; give one of {', '.join(known)}")
    shape = (data.shape[0], K)
    return QuantizedWeight(known[scheme], data, scale, shape, zero_point, group_size, layout)
