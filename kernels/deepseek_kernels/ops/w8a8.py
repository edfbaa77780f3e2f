"""Int8 activations times int8 weights: ``y = q(x) W^T + bias``, optionally GELU.

Shapes: ``x [M, K]`` float16, bfloat16 or float32; weights ``int8`` of ``QuantizedWeight`` ``[N,
K]``; ``bias [N]`` any float; ``y [M, N]`` in x's dtype. Each token is quantized with its own scale
while the model runs (``quantize_activations``), so that a token's answer does not depend on its
batch mates. The sum of K products of two int8 values is exact in int32 up to K = 133,144; scales,
bias and GELU are applied to it in float32 before it is rounded once.
"""

from __future__ import annotations

import torch

from deepseek_kernels.configuration import KernelConfig, config_for
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import quantize_activations
from deepseek_kernels.ops.common import check_operands, reference_epilogue
from deepseek_kernels.ops.scaled_product import multiply
from deepseek_kernels.weights import QuantizedWeight

__all__ = ["MAX_K", "launch", "reference", "w8a8"]

MAX_K = (2**31 - 1) // (127 * 127)
"""Largest K whose sum fits in int32 whatever the values are (neither side holds -128)."""


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
        weight: int8 ``[N, K]``.
        bias: ``[N]``.
        gelu: apply GELU (with the error function) at the end.
        config: tile sizes; None looks them up for the device and shape.

    Raises:
        KernelArgumentError: a wrong argument.
    """
    x = _checked(x, weight, bias)
    (M, K), N = x.shape, weight.shape[0]
    out = x.new_empty(M, N)
    if M == 0:
        return out
    values, scale = quantize_activations.launch(x, "int8-tokens")
    config = config or config_for("w8a8", M, N, K, x.device)
    multiply(values, scale, weight.data, weight.scale, bias, out, gelu=gelu, config=config)
    return out


def reference(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    accumulate: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The same in plain torch: exact sums, the rest in float32 (or float64, which stays)."""
    x = _checked(x, weight, bias)
    values, scale = quantize_activations.reference(x, "int8-tokens")
    # Sums stay below 2^31, and float64 holds integers up to 2^53: the product is exact.
    sums = values.to(torch.float64) @ weight.data.to(torch.float64).T
    total = sums.to(accumulate) * scale.to(accumulate)[:, None] * weight.scale.to(accumulate).T
    return reference_epilogue(total, bias, gelu=gelu, dtype=x.dtype)


@torch.library.custom_op("deepseek::w8a8", mutates_args=(), device_types="cpu")
def w8a8(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    """``x [M, K]``, quantized, times an int8 weight given as its tensors; see the module."""
    return reference(x, _weight(data, scale), bias, gelu=gelu)


@w8a8.register_kernel("cuda")
def _on_gpu(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    return launch(x, _weight(data, scale), bias, gelu=gelu)


@w8a8.register_fake
def _shape(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], data.shape[0])


def _weight(data: torch.Tensor, scale: torch.Tensor) -> QuantizedWeight:
    return QuantizedWeight("int8", data, scale, (data.shape[0], data.shape[1]))


def _checked(x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None) -> torch.Tensor:
    if weight.scheme != "int8":
        raise KernelArgumentError(f"weight: is {weight.scheme}; give int8")
    if weight.shape[1] > MAX_K:
        raise KernelArgumentError(
            f"weight: K={weight.shape[1]} may overflow 32-bit sums; split it at {MAX_K}"
        )
    return check_operands(x, weight, bias)
