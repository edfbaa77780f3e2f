"""RMS or layer norm, with the residual added before it, in one pass.

Why it exists: a decoder's step adds and normalizes twice in each layer; apart, each reads and
writes the hidden states twice as often and is a launch of its own. The kernel is that of
``norm_quantize``, which also rounds to 8 bits; use that one where a quantized product follows. Not
for training: nothing is kept for a gradient.

Shapes: x, residual ``[..., N]``; weight, bias ``[N]``. Computed in float32 and rounded once. A row
with NaN or infinity becomes NaN, and no other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.elementwise import check_like
from deepseek_kernels.ops.norm_quantize import Kind, check_norm
from deepseek_kernels.ops.norm_quantize import launch as _launch
from deepseek_kernels.ops.norm_quantize import reference as _reference

__all__ = ["add_norm", "launch", "norm", "reference"]


def norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: Kind = "rms",
    eps: float = 1e-6,
    unit_offset: bool = False,
) -> Tensor:
    """Normalize rows.

    Args:
        x: ``[..., N]``, float32, float16 or bfloat16 of any strides.
        weight: ``[N]``.
        bias: ``[N]`` or None.
        kind: ``rms`` or ``layer`` (subtracts the mean).
        eps: added to the mean square or the variance.
        unit_offset: multiply by ``1 + weight``, as Gemma does.

    Returns:
        A new contiguous tensor of the shape and type of x.

    Raises:
        KernelArgumentError: shapes, types or settings do not fit, or N is above 16384.
    """
    check_norm(x, weight, bias, kind)
    result: Tensor = _plain(x, weight, bias, kind == "rms", eps, unit_offset)
    return result


def add_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: Kind = "rms",
    eps: float = 1e-6,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor]:
    """Like ``norm`` of ``x + residual``, which is given back too.

    Args:
        x: ``[..., N]``, float32, float16 or bfloat16 of any strides.
        residual: shape and type of x.
        weight: ``[N]``.
        bias: ``[N]`` or None.
        kind: ``rms`` or ``layer`` (subtracts the mean).
        eps: added to the mean square or the variance.
        unit_offset: multiply by ``1 + weight``, as Gemma does.

    Returns:
        The norm and the sum, both of the shape and type of x. The norm is that of the rounded sum,
        which is what the next layer sees.

    Raises:
        KernelArgumentError: shapes, types or settings do not fit, or N is above 16384.
    """
    check_norm(x, weight, bias, kind)
    check_like("residual", residual, tuple(x.shape), x)
    if residual.dtype != x.dtype:
        raise KernelArgumentError(f"residual: is {residual.dtype}; convert it to {x.dtype}")
    result: tuple[Tensor, Tensor] = _added(
        x, residual, weight, bias, kind == "rms", eps, unit_offset
    )
    return result


def reference(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    rms: bool,
    eps: float,
    unit_offset: bool,
) -> tuple[Tensor, Tensor]:
    """Norm and sum in plain torch, in float32."""
    values, _, total = _reference(x, residual, weight, bias, rms, eps, x.dtype, unit_offset)
    return values, total


def launch(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    rms: bool,
    eps: float,
    unit_offset: bool,
) -> tuple[Tensor, Tensor]:
    """Norm and sum by the Triton kernel; the arguments were checked before."""
    values, _, total = _launch(x, residual, weight, bias, rms, eps, x.dtype, unit_offset)
    return values, total


@torch.library.custom_op("deepseek::norm", mutates_args=(), device_types="cpu")
def _plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, rms: bool, eps: float, unit_offset: bool
) -> Tensor:
    return reference(x, None, weight, bias, rms, eps, unit_offset)[0]


_plain.register_kernel("cuda")(lambda x, weight, *settings: launch(x, None, weight, *settings)[0])
_plain.register_fake(lambda x, *_: x.new_empty(x.shape))


@torch.library.custom_op("deepseek::add_norm", mutates_args=(), device_types="cpu")
def _added(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rms: bool,
    eps: float,
    unit_offset: bool,
) -> tuple[Tensor, Tensor]:
    return reference(x, residual, weight, bias, rms, eps, unit_offset)


_added.register_kernel("cuda")(launch)
_added.register_fake(lambda x, *_: (x.new_empty(x.shape), x.new_empty(x.shape)))
