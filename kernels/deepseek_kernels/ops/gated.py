"""The middle of a gated feed-forward layer, ``activation(gate) * up``, in one pass.

Why it exists: apart, activation and product read and write the widest activations of a decoder's
step once more. The kernel is that of ``silu_mul_quantize``, which also rounds to 8 bits; use that
one where a quantized product follows. Not for training.

Shapes: gate and up ``[..., N]``, also as halves of one ``[..., 2 N]``, which are not copied.
Computed in float32 and rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.silu_mul_quantize import ACTIVATIONS, check_gate
from deepseek_kernels.ops.silu_mul_quantize import launch as _launch
from deepseek_kernels.ops.silu_mul_quantize import reference as _reference

__all__ = ["gated", "launch", "reference"]


def gated(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    """``activation(gate) * up``.

    Args:
        gate: ``[..., N]``, float32, float16 or bfloat16.
        up: shape and type of gate.
        activation: ``silu``, ``gelu`` (by the error function) or ``gelu-tanh``.

    Returns:
        A new contiguous tensor of the shape and type of gate. NaN stays NaN.

    Raises:
        KernelArgumentError: shapes, types or the activation do not fit, or N is above 32768.
    """
    check_gate(gate, up)
    if activation not in ACTIVATIONS:
        raise KernelArgumentError(
            f"activation: is {activation!r}; give one of {', '.join(ACTIVATIONS)}"
        )
    result: Tensor = _operation(gate, up, activation)
    return result


def reference(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """The product in plain torch, in float32."""
    return _reference(gate, up, gate.dtype, activation)[0].contiguous()


def launch(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """The product by the Triton kernel; the arguments were checked by ``gated``."""
    return _launch(gate, up, gate.dtype, activation)[0]


@torch.library.custom_op("deepseek::gated", mutates_args=(), device_types="cpu")
def _operation(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return reference(gate, up, activation)


_operation.register_kernel("cuda")(launch)
_operation.register_fake(lambda gate, *_: gate.new_empty(gate.shape))
