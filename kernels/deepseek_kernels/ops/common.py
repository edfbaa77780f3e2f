"""What matrix kernels share: the end of a product, sums over split K, checks of arguments.

A product ends in float32: bias and GELU are applied to it before it is rounded once. With K split,
each part writes its float32 sums and ``add_parts`` finishes them in a fixed order, so that a
result is the same every time (atomic additions would round in the order of arrival).
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl

from deepseek_kernels.errors import KernelArgumentError, KernelUnavailableError
from deepseek_kernels.weights import QuantizedWeight

__all__ = [
    "MAX_ELEMENTS",
    "activation_matrix",
    "add_parts",
    "check_operands",
    "device_of",
    "finish",
    "processors",
    "reference_epilogue",
    "reference_linear",
    "require_fp8_support",
    "sum_parts",
]

MAX_ELEMENTS = 2**31 - 1
"""Kernels count elements in 32 bits."""
_BLOCK = 1024
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@triton.jit
def finish(
    total: tl.tensor,
    bias: tl.tensor,
    mask: tl.tensor,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
) -> tl.tensor:
    """Add the bias at pointers ``bias`` to float32 ``total``; apply GELU (with erf)."""
    if HAS_BIAS:
        total += tl.load(bias, mask=mask, other=0.0).to(tl.float32)
    if GELU:
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    return total


@triton.jit
def sum_parts(
    parts: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    N: tl.tensor,
    size: tl.tensor,
    PARTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``out[i] = finish(sum over p of parts[p, i])`` for ``i < size = M * N``."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    total = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * size + at, mask=mask, other=0.0)
    total = finish(total, bias + at % N, mask, HAS_BIAS, GELU)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


def add_parts(
    parts: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool
) -> None:
    """Add float32 ``parts [P, M, N]`` into ``out [M, N]``, with bias ``[N]`` and GELU."""
    size = out.numel()
    sum_parts[(triton.cdiv(size, _BLOCK),)](
        parts,
        out if bias is None else bias,
        out,
        out.shape[1],
        size,
        PARTS=parts.shape[0],
        HAS_BIAS=bias is not None,
        GELU=gelu,
        BLOCK=_BLOCK,
        num_warps=4,
    )


def reference_linear(
    x: torch.Tensor,
    dense: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    gelu: bool,
    accumulate: torch.dtype = torch.float32,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """``x [M, K]`` times ``dense [N, K]`` transposed, plus ``bias [N]``.

    Computed in ``accumulate`` and rounded once to ``dtype``, or else x's. With float64 the result
    stays in float64: the reference of tests.
    """
    total = x.to(accumulate) @ dense.to(accumulate).T
    return reference_epilogue(total, bias, gelu=gelu, dtype=dtype or x.dtype)


def reference_epilogue(
    total: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool, dtype: torch.dtype
) -> torch.Tensor:
    """What follows a product ``total [M, N]``: bias, GELU and one rounding to ``dtype``.

    A total in float64 stays in float64: the reference of tests.
    """
    if bias is not None:
        total = total + bias.to(total.dtype)
    if gelu:
        total = torch.nn.functional.gelu(total)
    return total if total.dtype == torch.float64 else total.to(dtype)


def activation_matrix(x: torch.Tensor) -> torch.Tensor:
    """``x [M, K]`` with neighbouring columns next to each other in memory; rows may lie apart.

    Raises:
        KernelArgumentError: not a matrix of 16- or 32-bit floats, or too large.
    """
    if x.ndim != 2 or x.dtype not in _FLOATS:
        raise KernelArgumentError(
            f"x: is {x.dtype} {list(x.shape)}; give float16, bfloat16 or float32 [M, K]"
        )
    if x.stride(1) != 1:
        x = x.contiguous()
    if max(x.numel(), (x.shape[0] - 1) * x.stride(0)) > MAX_ELEMENTS:
        raise KernelArgumentError(
            f"x: {list(x.shape)} spans more than 2^31 elements; split it along M"
        )
    return x


def check_operands(
    x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None
) -> torch.Tensor:
    """Check what every product needs and return ``x`` as ``activation_matrix`` does.

    Raises:
        KernelArgumentError: it names the argument that does not fit.
    """
    x, (N, K) = activation_matrix(x), weight.shape
    if x.shape[1] != K:
        raise KernelArgumentError(f"x: has {x.shape[1]} features; the weight takes K={K}")
    if max(N * K, x.shape[0] * N) > MAX_ELEMENTS:
        raise KernelArgumentError(
            f"x, weight: M={x.shape[0]}, N={N}, K={K} make more than 2^31 elements; split M or N"
        )
    parts = (weight.data, weight.scale, weight.zero_point)
    if not all(part is None or part.is_contiguous() for part in parts):
        raise KernelArgumentError("weight: its tensors are not contiguous; call contiguous()")
    if bias is not None and (
        tuple(bias.shape) != (N,) or not bias.is_floating_point() or not bias.is_contiguous()
    ):
        raise KernelArgumentError(
            f"bias: is {bias.dtype} {list(bias.shape)}; give a contiguous float vector [{N}]"
        )
    tensors = {"weight": weight.data, "scale": weight.scale, "bias": bias}
    for name, tensor in (tensors | {"zero_point": weight.zero_point}).items():
        if tensor is not None and tensor.device != x.device:
            raise KernelArgumentError(
                f"{name}: is on {tensor.device} and x on {x.device}; move one of them"
            )
    return x


def device_of(tensor: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """Make the tensor's GPU the current one, where Triton launches; nothing on a CPU."""
    if tensor.device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; for CPUs, where kernels are interpreted, the number of an H100."""
    if device.type != "cuda":
        return 132
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def require_fp8_support(device: torch.device) -> None:
    """Check that a GPU has float8_e4m3fn; the interpreter on CPUs has it.

    Raises:
        KernelUnavailableError: compute capability below 8.9.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise KernelUnavailableError(
            "fp8 needs a GPU of compute capability 8.9 (Ada, Hopper or later); use int8 here"
        )
