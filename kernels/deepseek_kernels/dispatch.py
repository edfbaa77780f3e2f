"""Multiply by a quantized weight with whatever suits: the one call that layers make.

Why it exists: ``deepseek_kernels.choosing`` knows what is fastest where; this module runs it. In a
graph that ``torch.compile`` traces, the product is one opaque operation, because the choice
depends on the number of tokens, which such a graph does not fix, and on files, which it cannot
read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

from deepseek_kernels.choosing import (
    QUANTIZED,
    VARIABLE,
    Activations,
    Choice,
    Implementation,
    explain,
    has_fp8,
)
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import fp8_block, fp8_row, w4a16, w8a8, w8a16
from deepseek_kernels.ops.common import reference_linear
from deepseek_kernels.ops.dequantize import dequantize
from deepseek_kernels.weights import Layout, QuantizedWeight, Scheme

__all__ = [
    "VARIABLE",
    "Activations",
    "Choice",
    "Implementation",
    "explain",
    "linear",
    "quantized_linear",
]


def linear(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    activations: Activations = "none",
    epilogue: Literal["gelu"] | None = None,
    implementation: Implementation | None = None,
    dense: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply ``x [..., K]`` by a quantized weight ``[N, K]``: ``[..., N]`` in x's dtype.

    Args:
        x: float16, bfloat16 or float32.
        weight: on the same device.
        bias: ``[N]``, any float.
        activations: what activations may be quantized to; small products may leave them alone.
        epilogue: ``gelu`` (with the error function) or nothing.
        implementation: overrules the choice.
        dense: the weight as ``[N, K]`` in x's dtype, if the caller keeps it; otherwise a dense
            product dequantizes the weight for each call.

    Raises:
        KernelArgumentError: an argument does not fit; the message names it.
        KernelUnavailableError: an overruling implementation that this GPU cannot run.
    """
    if epilogue not in (None, "gelu"):
        raise KernelArgumentError(f"epilogue: {epilogue!r} is unknown; give 'gelu' or None")
    N, K = weight.shape
    if not x.ndim or x.shape[-1] != K:
        raise KernelArgumentError(f"x: is {list(x.shape)}; give [..., {K}]")
    tokens, gelu = x.reshape(-1, K), epilogue == "gelu"
    y: torch.Tensor
    if torch.compiler.is_compiling():
        tiled, asked = weight.layout == "tiles", implementation or ""
        parts = (weight.data, weight.scale, weight.zero_point, weight.scheme, weight.group_size)
        y = quantized_linear(tokens, *parts, tiled, bias, dense, activations, gelu, asked)
    else:
        y = _run(tokens, weight, bias, dense, activations, implementation, gelu=gelu)
    return y.view(*x.shape[:-1], N)


def _run(
    tokens: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None,
    dense: torch.Tensor | None,
    activations: Activations,
    implementation: Implementation | None,
    *,
    gelu: bool,
) -> torch.Tensor:
    choice = explain(
        len(tokens),
        weight,
        activations=activations,
        implementation=implementation,
        device=tokens.device,
        has_dense=dense is not None,
    )
    if choice.implementation == "reference":
        return _reference(tokens, weight, bias, activations, gelu=gelu)
    if choice.implementation == "dense":
        return _dense(tokens, weight, bias, dense, gelu=gelu)
    return _KERNELS[choice.implementation](tokens, weight, bias, gelu)


@torch.library.custom_op("deepseek::quantized_linear", mutates_args=())
def quantized_linear(
    tokens: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    scheme: str,
    group_size: int,
    tiled: bool,
    bias: torch.Tensor | None,
    dense: torch.Tensor | None,
    activations: str,
    gelu: bool,
    implementation: str,
) -> torch.Tensor:
    """``linear`` for tokens ``[M, K]`` as one operation, for compiled graphs.

    A graph that is compiled once runs for many numbers of tokens, so the choice is made inside.
    """
    shape = (data.shape[0], tokens.shape[1])
    layout: Layout = "tiles" if tiled else "rows"
    weight = QuantizedWeight(
        _member(Scheme, scheme, "scheme"), data, scale, shape, zero_point, group_size, layout
    )
    asked = _member(Implementation, implementation, "implementation") if implementation else None
    kind = _member(Activations, activations, "activations")
    return _run(tokens, weight, bias, dense, kind, asked, gelu=gelu)


@quantized_linear.register_fake
def _shape(
    tokens: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    scheme: str,
    group_size: int,
    tiled: bool,
    bias: torch.Tensor | None,
    dense: torch.Tensor | None,
    activations: str,
    gelu: bool,
    implementation: str,
) -> torch.Tensor:
    return tokens.new_empty(tokens.shape[0], data.shape[0])


def _member(kinds: Any, text: str, name: str) -> Any:
    """The literal that a string names.

    Raises:
        KernelArgumentError: none of them.
    """
    if text not in get_args(kinds):
        raise KernelArgumentError(
            f"{name}: {text!r} is unknown; give one of {', '.join(get_args(kinds))}"
        )
    return text


def _reference(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None,
    activations: str,
    *,
    gelu: bool,
) -> torch.Tensor:
    quantized = QUANTIZED.get((weight.scheme, activations))
    if quantized == "w8a8":
        return w8a8.reference(x, weight, bias, gelu=gelu)
    if quantized == "fp8-row":
        return fp8_row.reference(x, weight, bias, gelu=gelu)
    if quantized == "fp8-block":
        return fp8_block.reference(x, weight, bias, gelu=gelu)
    return reference_linear(x, weight.dequantize(), bias, gelu=gelu)


def _dense(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None,
    dense: torch.Tensor | None,
    *,
    gelu: bool,
) -> torch.Tensor:
    if dense is None:
        dense = _dequantized(weight, x.dtype)
    elif dense.shape != weight.shape or dense.dtype != x.dtype:
        raise KernelArgumentError(
            f"dense: is {dense.dtype} {list(dense.shape)}; give {x.dtype} {list(weight.shape)}"
        )
    y = torch.nn.functional.linear(x, dense, None if bias is None else bias.to(x.dtype))
    return torch.nn.functional.gelu(y) if gelu else y


def _dequantized(weight: QuantizedWeight, dtype: torch.dtype) -> torch.Tensor:
    fp8 = weight.scheme.startswith("fp8")
    if fp8 and weight.device.type == "cuda" and not has_fp8(weight.device):
        return weight.dequantize(dtype)  # torch converts float8 on any GPU, Triton does not
    tiled = weight.layout == "tiles"
    parts = (weight.data, weight.scale, weight.zero_point, weight.scheme, weight.shape[1])
    made: torch.Tensor = dequantize(*parts, weight.group_size, tiled, dtype)
    return made


_Run = Callable[[torch.Tensor, QuantizedWeight, "torch.Tensor | None", bool], torch.Tensor]

_KERNELS: dict[Implementation, _Run] = {
    "w4a16": lambda x, w, bias, gelu: w4a16.w4a16(
        x, w.data, w.scale, w.zero_point, bias, w.group_size, w.layout == "tiles", gelu
    ),
    "w8a16": lambda x, w, bias, gelu: w8a16.w8a16(x, w.data, w.scale, bias, gelu),
    "w8a8": lambda x, w, bias, gelu: w8a8.w8a8(x, w.data, w.scale, bias, gelu),
    "fp8-row": lambda x, w, bias, gelu: fp8_row.fp8_row(x, w.data, w.scale, bias, gelu),
    "fp8-block": lambda x, w, bias, gelu: fp8_block.fp8_block(x, w.data, w.scale, bias, gelu),
}
