"""SiLU(gate) * up and its quantization to int8 or fp8 rows, in one pass.

Why it exists: the middle of a gated feed-forward layer. The product after it wants 8-bit rows with
a scale each; apart, activation, product and quantization read and write the widest activations of
the model four times, here they are read once and written once in one byte.

``gated`` is the same kernel without the quantization, and with other activations.

Shapes: gate and up ``[..., N]``, also as halves of one ``[..., 2 N]``, which are not copied; values
``[..., N]`` int8 or float8_e4m3fn; scales float32 ``[...]``, one for each row. Computed in float32.
A row with NaN or infinity gets the scale NaN, so that every product with it is NaN; the rest of the
rule is that of ``ops.elementwise``.
"""

from __future__ import annotations

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
    gelu,
    gelu_tanh,
    limit_of,
    magnitude,
    on_device_of,
    quantize_rows,
    round_to,
    row_tile,
    symmetric_scale,
)

__all__ = ["ACTIVATIONS", "MAX_WIDTH", "check_gate", "launch", "reference", "silu_mul_quantize"]

ACTIVATIONS = ("silu", "gelu", "gelu-tanh")
"""Of the gate: x times its logistic function; GELU by the error function; GELU by tanh."""

MAX_WIDTH = 32768
"""Longest row that a program holds in registers."""


def silu_mul_quantize(
    gate: Tensor, up: Tensor, out_dtype: torch.dtype = torch.int8
) -> tuple[Tensor, Tensor]:
    """Quantize ``silu(gate) * up`` by rows.

    Args:
        gate: ``[..., N]``, float32, float16 or bfloat16.
        up: shape and type of gate.
        out_dtype: int8 or float8_e4m3fn.

    Returns:
        Values and scales.

    Raises:
        KernelArgumentError: shapes or types do not fit, or N is above 32768.
        KernelUnavailableError: fp8 on a GPU that has none.
    """
    check_gate(gate, up)
    limit_of(out_dtype)
    result: tuple[Tensor, Tensor] = _operation(gate, up, out_dtype)
    return result


def check_gate(gate: Tensor, up: Tensor) -> None:
    """Refuse what is no pair of equal rows.

    Raises:
        KernelArgumentError: it names the argument that does not fit.
    """
    check_rows("gate", gate, MAX_WIDTH)
    check_like("up", up, tuple(gate.shape), gate)
    if up.dtype != gate.dtype:
        raise KernelArgumentError(f"up: is {up.dtype}; convert it to {gate.dtype}")


def reference(
    gate: Tensor, up: Tensor, out_dtype: torch.dtype, activation: str = "silu"
) -> tuple[Tensor, Tensor]:
    """Values and scales in plain torch, in float32; no scales if nothing is quantized."""
    wide = gate.float()
    if activation == "silu":
        active = torch.nn.functional.silu(wide)
    else:
        kind = "tanh" if activation == "gelu-tanh" else "none"
        active = torch.nn.functional.gelu(wide, approximate=kind)
    product = active * up.float()
    if out_dtype in FLOATS:
        return product.to(out_dtype), product.new_empty(0)
    return quantize_rows(product, out_dtype)


@triton.jit
def _kernel(
    gate_ptr: tl.tensor,
    up_ptr: tl.tensor,
    values_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    gate_stride: tl.tensor,
    up_stride: tl.tensor,
    ACTIVATION: tl.constexpr,
    QUANTIZE: tl.constexpr,
    IS_INT8: tl.constexpr,
    LIMIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < width)
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION == 0:
        y = gate * tl.sigmoid(gate) * up
    elif ACTIVATION == 1:
        y = gelu(gate) * up
    else:
        y = gelu_tanh(gate) * up
    values_at = values_ptr + row * width + column
    if QUANTIZE:
        scale = symmetric_scale(tl.max(magnitude(y), 1, keep_dims=True), LIMIT)
        quantized = round_to(y * tl.div_rn(1.0, scale), LIMIT, IS_INT8)
        tl.store(values_at, quantized, mask=inside)
        tl.store(scales_ptr + row, scale, mask=row < rows)
    else:
        tl.store(values_at, y.to(values_ptr.dtype.element_ty), mask=inside)


def launch(
    gate: Tensor, up: Tensor, out_dtype: torch.dtype, activation: str = "silu"
) -> tuple[Tensor, Tensor]:
    """Values and scales by the Triton kernel; the arguments were checked before.

    A floating point ``out_dtype`` quantizes nothing and fills no scales.
    """
    quantize = out_dtype not in FLOATS
    if quantize and out_dtype is not torch.int8:
        require_fp8_support(gate.device)
    values, scales = _shapes(gate, up, out_dtype)
    if gate.numel() == 0:
        return values, scales
    width = gate.shape[-1]
    flat_gate, flat_up = _rows(gate), _rows(up)
    tile = row_tile(width)
    with on_device_of(gate):
        _kernel[(triton.cdiv(len(flat_gate), tile.rows),)](
            flat_gate,
            flat_up,
            values,
            scales,
            len(flat_gate),
            width,
            flat_gate.stride(0),
            flat_up.stride(0),
            ACTIVATION=ACTIVATIONS.index(activation),
            QUANTIZE=quantize,
            IS_INT8=out_dtype is torch.int8,
            LIMIT=limit_of(out_dtype) if quantize else 0.0,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            num_warps=tile.warps,
        )
    return values, scales


@torch.library.custom_op("deepseek::silu_mul_quantize", mutates_args=(), device_types="cpu")
def _operation(gate: Tensor, up: Tensor, out_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return reference(gate, up, out_dtype)


_operation.register_kernel("cuda")(launch)


@_operation.register_fake
def _shapes(gate: Tensor, up: Tensor, out_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    values = gate.new_empty(gate.shape, dtype=out_dtype)
    return values, gate.new_empty(gate.shape[:-1], dtype=torch.float32)


def _rows(tensor: Tensor) -> Tensor:
    """As a matrix whose rows are contiguous; a copy only where the strides leave no other way."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()
