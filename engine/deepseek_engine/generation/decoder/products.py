"""How a product's weight is held: floating point, or quantized.

Why it exists: which module multiplies follows from the scheme of the weight and the device, and
from nothing that a layer knows. Weights of layers with the same input become one product where
their scheme allows it, because at one token a step the number of calls counts more than their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from deepseek_kernels.weights import QuantizedWeight
from torch import nn

from deepseek_engine.generation.decoder.int8 import Int8Linear
from deepseek_engine.quant.blocks import LayerWeight
from deepseek_engine.quant.layers import QuantizedLinear
from deepseek_engine.quant.schemes import Scheme

__all__ = ["Embedding", "Linear", "Weight", "dense", "product", "rows_of"]

Weight = torch.Tensor | tuple[LayerWeight, Scheme]
"""``[N, K]`` in floating point, or quantized."""


class Linear(nn.Module):
    """``y = x W^T + b`` in floating point."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Take ``weight [N, K]`` and ``bias [N]``."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[..., K]`` to ``[..., N]``."""
        return nn.functional.linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """Rows of a table."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        """Take ``[rows, K]``."""
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """From numbers ``[T]`` to rows ``[T, K]``."""
        return nn.functional.embedding(ids, self.weight)


class _SideBySide(nn.Module):
    """Several products of the same input, their answers one after another."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(x) for part in self.parts], -1)


def product(
    weights: Sequence[Weight],
    biases: Sequence[torch.Tensor],
    dtype: torch.dtype,
    *,
    normed: bool = False,
) -> nn.Module:
    """The module that multiplies by weights whose rows stand one after another.

    Args:
        weights: ``[N, K]`` each.
        biases: one for each weight, or none.
        dtype: of the model.
        normed: whether the input comes out of a norm, whose channels differ much in size.
    """
    joined = _joined(weights)
    if joined is None:
        each = [[bias] for bias in biases] or [[] for _ in weights]
        return _SideBySide(
            [
                product([weight], bias, dtype, normed=normed)
                for weight, bias in zip(weights, each, strict=True)
            ]
        )
    bias = torch.cat(list(biases)) if biases else None
    if isinstance(joined, torch.Tensor):
        return Linear(joined, bias)
    weight, scheme = joined
    if isinstance(weight, QuantizedWeight) and weight.scheme == "int8" and not weight.data.is_cuda:
        return Int8Linear(weight, bias, fine=normed)
    layer = QuantizedLinear(weight, scheme, bias=bias, dtype=dtype)
    if weight.data.is_cuda:
        layer.use_tiles()
    return layer


def dense(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """The weight ``[N, K]`` in floating point."""
    return weight if isinstance(weight, torch.Tensor) else weight[0].dequantize(dtype)


def rows_of(weight: Weight) -> int:
    """N of ``[N, K]``."""
    return (weight if isinstance(weight, torch.Tensor) else weight[0]).shape[0]


def _joined(weights: Sequence[Weight]) -> Weight | None:
    """One weight of all rows, or None if they are held in different ways."""
    if len(weights) == 1:
        return weights[0]
    plain = [weight for weight in weights if isinstance(weight, torch.Tensor)]
    if len(plain) == len(weights):
        return torch.cat(plain)
    held = [weight for weight in weights if not isinstance(weight, torch.Tensor)]
    rows = [part for part, _ in held if isinstance(part, QuantizedWeight)]
    first = rows[0] if rows else None
    alike = (
        first is not None
        and len(rows) == len(weights)
        and first.scheme != "fp8-block"  # blocks may reach beyond a weight's last row
        and len({scheme.name for _, scheme in held}) == 1
        and len({part.zero_point is None for part in rows}) == 1
    )
    if not alike or first is None:
        return None
    zeros = [part.zero_point for part in rows if part.zero_point is not None]
    whole = replace(
        first,
        data=_stacked([part.data for part in rows]),
        scale=torch.cat([part.scale for part in rows]),
        zero_point=torch.cat(zeros) if zeros else None,
        shape=(sum(part.shape[0] for part in rows), first.shape[1]),
    )
    return whole, held[0][1]


def _stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    # By bytes: torch does not concatenate fp8 on every device.
    kind = parts[0].dtype
    if kind == torch.float8_e4m3fn:
        return torch.cat([part.view(torch.uint8) for part in parts]).view(kind)
    return torch.cat(list(parts))
