"""Norms of tokens and of heads.

Why it exists: three rules exist among decoders, and the order of rounding differs between two of
them for 16-bit types. Each is computed in fp32, as the models were trained.
"""

from __future__ import annotations

import torch
from torch import nn

from deepseek_engine.generation.config import Norm

__all__ = ["LayerNorm", "RmsNorm", "make_norm"]


class RmsNorm(nn.Module):
    """``x / rms(x) * weight`` over the last axis, or ``* (1 + weight)`` with ``unit_offset``."""

    weight: torch.Tensor
    _factor: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, eps: float, *, unit_offset: bool = False) -> None:
        """Take the weight ``[N]`` as the checkpoint has it."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.eps, self.unit_offset = eps, unit_offset
        # Added once; in fp32 because 16 bits would round what the model was trained with.
        self.register_buffer("_factor", 1.0 + weight.float() if unit_offset else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[..., N]`` to ``[..., N]`` in the type of x."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(self.eps))
        if self._factor is not None:
            return (scaled * self._factor).to(x.dtype)
        return scaled.to(x.dtype) * self.weight


class LayerNorm(nn.Module):
    """``(x - mean) / deviation * weight + bias`` over the last axis."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
        """Take weight and bias ``[N]``."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[..., N]`` to ``[..., N]`` in the type of x."""
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def make_norm(
    kind: Norm, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> RmsNorm | LayerNorm:
    """The norm of a configuration; ``bias`` is that of a layer norm."""
    if kind == "layer":
        assert bias is not None  # every layer norm that is loaded has one
        return LayerNorm(weight, bias, eps)
    return RmsNorm(weight, eps, unit_offset=kind == "rms_unit_offset")
