"""int8 products on processors, with a scale for each token.

Why it exists: a processor reads weights more slowly than it multiplies, so that int8 weights are
about four times as fast as fp32 ones, and the deciding part of a small model is its head. Of the
paths that torch and ONNX Runtime have, FBGEMM's is the fastest at few tokens and among the fastest
at many. Its usual entrance gives all tokens one scale, so that an answer would depend on its batch
mates; here tokens are divided by their own scale first, and what FBGEMM is told is 1. The sums are
exact integers, so that the numbers are those of
`deepseek_engine.quant.activations.multiply_int8`, whatever the batch.

What comes out of a norm has channels that are far larger than the others, which 8 bits lose: of
gemma3-270m that cost 3 % of perplexity. There (``fine``) what rounding leaves is rounded too, with
a 254th of the scale, as further rows of the same product: weights are read once, so that a few
tokens take about the same time, and inputs have about 15 bits.

Without VNNI instructions FBGEMM adds two products in 16 bits; inputs then have 7 bits, so that no
sum can overflow. Processors without FBGEMM (ARM) use torch's plain integer product.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from deepseek_api.vocabulary import InstructionSet
from deepseek_kernels.weights import QuantizedWeight
from torch import nn

from deepseek_engine.hardware import detect_cpu

__all__ = ["Int8Linear"]

_EXACT = frozenset({InstructionSet.AVX512_VNNI, InstructionSet.AMX_INT8})
"""What FBGEMM adds products in 32 bits with; it does not use AVX-VNNI."""


@cache
def _limit() -> int:
    """The largest input, of 127, that cannot overflow here."""
    cpu = detect_cpu()
    exact = not _has_fbgemm() or not _EXACT.isdisjoint(cpu.instruction_sets)
    return 127 if exact else 63


@cache
def _has_fbgemm() -> bool:
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(
        torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32"
    )


def _pack(weight: QuantizedWeight) -> Any:
    """The weight as FBGEMM reads it."""
    torch.backends.quantized.engine = "fbgemm"
    zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
    with warnings.catch_warnings():
        # Quantized tensors will leave torch; this is the only place that makes one.
        warnings.filterwarnings("ignore", message=".*quantized tensor creation.*")
        stored = torch._make_per_channel_quantized_tensor(
            weight.data, weight.scale.flatten().double(), zeros, 0
        )
    return torch.ops.quantized.linear_prepack(stored, None)


class Int8Linear(nn.Module):
    """``y = x W^T + b`` for ``x [M, K]``, rounded to int8 by token, and an int8 ``W [N, K]``."""

    bias: torch.Tensor | None

    def __init__(
        self, weight: QuantizedWeight, bias: torch.Tensor | None, *, fine: bool = False
    ) -> None:
        """Take a weight with a scale for each row, and ``bias [N]``."""
        super().__init__()
        self.fine = fine
        self.limit = _limit()
        """The largest input, by whose scale a token is divided."""
        self.register_buffer("bias", None if bias is None else bias.float())
        self._packed = _pack(weight) if _has_fbgemm() else None
        if self._packed is None:
            self._turned, self._scale = weight.data.t(), weight.scale.reshape(1, -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[M, K]`` to ``[M, N]``; a token that is not finite gives what is not finite."""
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, torch.inf, -1, keepdim=True)
        scale = scale.mul_(1 / self.limit).clamp_min_(torch.finfo(torch.float32).tiny)
        values = wide * scale.reciprocal()
        if self.fine:
            rounded, step = values.round(), 2 * self.limit
            parts = self._multiply(torch.cat((rounded, (values - rounded).mul_(step))))
            found = torch.add(parts[: len(x)], parts[len(x) :], alpha=1 / step)
        else:
            found = self._multiply(values)
        found.mul_(scale)
        if self.bias is not None:
            found += self.bias
        return found.to(x.dtype)

    def _multiply(self, values: torch.Tensor) -> torch.Tensor:
        """Round ``[M, K]`` and multiply: exact sums times the scales of rows."""
        if self._packed is not None:
            found: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
                values, 1.0, self.limit + 1, self._packed
            )
            return found
        rounded = values.round().nan_to_num_(0.0).to(torch.int8)
        return torch._int_mm(rounded, self._turned).float().mul_(self._scale)
