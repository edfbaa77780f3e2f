"""float8 activations times float8 weights, a scale for each row of both: ``y = q(x) W^T + bias``.

Shapes: ``x [M, K]`` float16, bfloat16 or float32; weights ``fp8`` of ``QuantizedWeight`` ``[N,
K]``; ``bias [N]`` any float; ``y [M, N]`` in x's dtype, GELU optionally. Each token is quantized
with its own scale while the model runs. Products are added in float32, on Hopper as
``scaled_product`` says. Needs compute capability 8.9.
"""

from __future__ import annotations

import torch

from deepseek_kernels.configuration import KernelConfig, config_for
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import quantize_activations
from deepseek_kernels.ops.common import check_operands, reference_linear, require_fp8_support
from deepseek_kernels.ops.scaled_product import multiply
from deepseek_kernels.weights import QuantizedWeight

__all__ = ["fp8_row", "launch", "reference"]


def launch(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    config: KernelConfig | None = None,
    fast: bool = False,
) -> torch.Tensor:
    """Quantize ``x`` and multiply with Triton kernels wherever the tensors are.

    Args:
        x: ``[M, K]``; rows may lie apart.
        weight: fp8 ``[N, K]``.
        bias: ``[N]``.
        gelu: apply GELU (with the error function) at the end.
        config: tile sizes; None looks them up for the device and shape.
        fast: leave all sums to the tensor cores, which add with fewer bits than float32 on Hopper.

    Raises:
        KernelArgumentError: a wrong argument.
        KernelUnavailableError: a GPU without fp8.
    """
    x = _checked(x, weight, bias)
    (M, K), N = x.shape, weight.shape[0]
    out = x.new_empty(M, N)
    if M == 0:
        return out
    values, scale = quantize_activations.launch(x, "fp8-tokens")
    config = config or config_for("fp8_row", M, N, K, x.device)
    multiply(
        values, scale, weight.data, weight.scale, bias, out, gelu=gelu, config=config, fast=fast
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
    values, scale = quantize_activations.reference(x, "fp8-tokens")
    left = values.to(accumulate) * scale.to(accumulate)[:, None]
    dense = weight.dequantize(accumulate)
    return reference_linear(left, dense, bias, gelu=gelu, accumulate=accumulate, dtype=x.dtype)


@torch.library.custom_op("deepseek::fp8_row", mutates_args=(), device_types="cpu")
def fp8_row(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    """``x [M, K]``, quantized, times an fp8 weight given as its tensors; see the module."""
    return reference(x, _weight(data, scale), bias, gelu=gelu)


@fp8_row.register_kernel("cuda")
def _on_gpu(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    return launch(x, _weight(data, scale), bias, gelu=gelu)


@fp8_row.register_fake
def _shape(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], data.shape[0])


def _weight(data: torch.Tensor, scale: torch.Tensor) -> QuantizedWeight:
    return QuantizedWeight("fp8", data, scale, (data.shape[0], data.shape[1]))


def _checked(x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None) -> torch.Tensor:
    if weight.scheme != "fp8":
        raise KernelArgumentError(f"weight: is {weight.scheme}; give fp8")
    require_fp8_support(x.device)
    return check_operands(x, weight, bias)
