"""Weights whose int8 values share a scale in square blocks.

Why it exists: no kernel multiplies such a weight directly (scales along K would have to be applied
inside the integer sum), so it is no `QuantizedWeight`; it saves memory and is dequantized to be
used. Everything else that a layer needs of a weight is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from deepseek_kernels.weights import QuantizedWeight


@dataclass(frozen=True, slots=True)
class Int8BlockWeight:
    """A weight ``[N, K]`` with a scale for every block of rows and columns."""

    data: torch.Tensor
    """int8 ``[N, K]``."""
    scale: torch.Tensor
    """fp32 ``[ceil(N / rows), ceil(K / columns)]``."""
    block: tuple[int, int]
    """Rows and columns."""

    scheme = "int8-block"
    zero_point = None
    group_size = 0

    @property
    def shape(self) -> tuple[int, int]:
        """``(N, K)``."""
        return self.data.shape[0], self.data.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.data.nbytes + self.scale.nbytes

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight ``[N, K]`` in floating point."""
        rows, columns = self.shape
        scale = self.scale.repeat_interleave(self.block[0], 0)[:rows]
        scale = scale.repeat_interleave(self.block[1], 1)[:, :columns]
        return (self.data.float() * scale).to(dtype)

    def to(self, device: torch.device | str) -> Int8BlockWeight:
        """The same on another device."""
        return replace(self, data=self.data.to(device), scale=self.scale.to(device))


LayerWeight = QuantizedWeight | Int8BlockWeight
"""What a quantized layer holds."""
