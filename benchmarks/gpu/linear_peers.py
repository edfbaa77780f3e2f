"""Peers of quantized linear layers, each as a call on given weights and inputs. Imports torch.

Every function makes one call with inputs of its own; conversion happens here, outside the time.
What is timed is a peer's own interface, as its documentation shows it.
"""

from __future__ import annotations

from typing import Any

import torch
from deepseek_kernels.packing import unpack_int4
from deepseek_kernels.weights import QuantizedWeight

from benchmarks.gpu.timing import Call

__all__ = [
    "bitsandbytes_nf4",
    "gemlite",
    "gemlite_int4",
    "int_mm",
    "scaled_mm",
    "tinygemm",
    "torchao",
]

_OFFSET = 8
_INNER_TILES = 8


def gemlite_int4(helper: Any, weight: QuantizedWeight, x: torch.Tensor) -> Call:
    """GemLite's W4A16 over the same int4 values and scales."""
    _, k = weight.shape
    values = (unpack_int4(weight.data, k) + _OFFSET).to(torch.uint8)
    scales = weight.scale.to(x.dtype)
    zeros = torch.full_like(scales, _OFFSET)
    layer = helper.A16Wn(device="cuda:0", dtype=x.dtype).from_weights(
        values, scales, zeros, 4, weight.group_size
    )
    return lambda: layer(x)


def gemlite(helper: Any, name: str, weight: torch.Tensor, x: torch.Tensor, **options: Any) -> Call:
    """One of GemLite's processors that quantize a weight by themselves."""
    layer = getattr(helper, name)(device="cuda:0", dtype=x.dtype, **options).from_weights(weight)
    return lambda: layer(x)


def tinygemm(weight: QuantizedWeight, x: torch.Tensor) -> Call:
    """Torch's int4 product, which takes bf16."""
    _, k = weight.shape
    values = (unpack_int4(weight.data, k) + _OFFSET).to(torch.uint8)
    pairs = (values[:, ::2] << 4) | values[:, 1::2]
    packed = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), _INNER_TILES)
    scales = weight.scale.to(torch.bfloat16)
    both = torch.stack((scales, torch.zeros_like(scales)), dim=-1).transpose(0, 1).contiguous()
    given, group = x.to(torch.bfloat16), weight.group_size
    return lambda: torch.ops.aten._weight_int4pack_mm(given, packed, group, both)


def bitsandbytes_nf4(module: Any, weight: torch.Tensor, x: torch.Tensor) -> Call:
    """Bitsandbytes' NF4 in blocks of 64: another format, so that its numbers are not compared."""
    packed, state = module.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    # Its own choice of kernel by the number of rows, as its layers call it.
    return lambda: module.matmul_4bit(x, packed.t(), quant_state=state)


def torchao(module: Any, config: str, weight: torch.Tensor, x: torch.Tensor) -> Call:
    """A linear layer that torchao quantized, compiled."""
    layer = torch.nn.Linear(
        weight.shape[1], weight.shape[0], bias=False, device=x.device, dtype=x.dtype
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
    module.quantize_(layer, getattr(module, config)())
    compiled = torch.compile(layer)
    return lambda: compiled(x)


def int_mm(weight: QuantizedWeight, x: torch.Tensor) -> Call:
    """Torch's int8 product between scales in eager mode."""
    data, scale = weight.data.t(), weight.scale.t()

    def call() -> torch.Tensor:
        by_token = x.abs().amax(-1, keepdim=True).float().clamp_min(1e-10) / 127
        values = torch.round(x / by_token).to(torch.int8)
        return (torch._int_mm(values, data) * by_token * scale).to(x.dtype)

    return call


def scaled_mm(weight: QuantizedWeight, x: torch.Tensor) -> Call:
    """Torch's fp8 product by row, with the activations quantized in eager mode before it."""
    data, scale = weight.data.t(), weight.scale.t().contiguous()

    def call() -> torch.Tensor:
        by_token = x.abs().amax(-1, keepdim=True).float().clamp_min(1e-10) / 448
        values = (x / by_token).to(torch.float8_e4m3fn)
        found: torch.Tensor = torch._scaled_mm(
            values, data, scale_a=by_token, scale_b=scale, out_dtype=x.dtype
        )
        return found

    return call
