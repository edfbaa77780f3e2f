"""Bias and GELU in one pass: the epilogue of a feed-forward layer whose product is not ours.

Why it exists: after cuBLAS a bias and an activation in eager mode read and write the activations
twice. Products of this package have their own epilogue and do not need it.

``exact`` is ``v Phi(v)`` by the error function; ``tanh`` is the approximation that GPT-2 and others
were trained with (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.elementwise import (
    check_float,
    check_like,
    gelu,
    gelu_tanh,
    on_device_of,
    tile,
)

__all__ = ["bias_gelu", "launch", "reference"]

_APPROXIMATIONS = {"exact": "none", "tanh": "tanh"}
"""What torch calls them."""


def bias_gelu(x: Tensor, bias: Tensor | None = None, *, approximate: str = "exact") -> Tensor:
    """``gelu(x + bias)``, computed in float32.

    Args:
        x: ``[..., N]``, float32, float16 or bfloat16 of any strides.
        bias: ``[N]`` or None.
        approximate: ``exact`` or ``tanh``.

    Returns:
        A new contiguous tensor of the shape and type of x. NaN stays NaN.

    Raises:
        KernelArgumentError: another type or approximation, or a bias that does not fit.
    """
    check_float("x", x)
    if x.dim() == 0:
        raise KernelArgumentError("x: has no axis; give [..., N]")
    if bias is not None:
        check_like("bias", bias, (x.shape[-1],), x)
    if approximate not in _APPROXIMATIONS:
        raise KernelArgumentError(f"approximate: is {approximate!r}; give 'exact' or 'tanh'")
    result: Tensor = _operation(x, bias, approximate)
    return result


def reference(x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    """``gelu(x + bias)`` in plain torch, in float32."""
    wide = x.float() if bias is None else x.float() + bias.float()
    result = torch.nn.functional.gelu(wide, approximate=_APPROXIMATIONS[approximate])
    return result.to(x.dtype).contiguous()


@triton.jit
def _kernel(
    x_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    y_ptr: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    HAS_BIAS: tl.constexpr,
    TANH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    at = row[:, None] * width + column[None, :]
    inside = (row < rows)[:, None] & (column < width)[None, :]
    v = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        v += tl.load(bias_ptr + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    y = gelu_tanh(v) if TANH else gelu(v)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def launch(x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    """``gelu(x + bias)`` by the Triton kernel; the arguments were checked by ``bias_gelu``."""
    x = x.contiguous()
    y = torch.empty_like(x)
    if x.numel():
        width = x.shape[-1]
        rows, (tile_rows, tile_columns) = x.numel() // width, tile(width)
        with on_device_of(x):
            _kernel[(triton.cdiv(rows, tile_rows), triton.cdiv(width, tile_columns))](
                x,
                x if bias is None else bias.contiguous(),
                y,
                rows,
                width,
                HAS_BIAS=bias is not None,
                TANH=approximate == "tanh",
                ROWS=tile_rows,
                COLUMNS=tile_columns,
            )
    return y


@torch.library.custom_op("deepseek::bias_gelu", mutates_args=(), device_types="cpu")
def _operation(x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    return reference(x, bias, approximate)


_operation.register_kernel("cuda")(launch)


@_operation.register_fake
def _shapes(x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    return x.new_empty(x.shape)
