"""Keys and values of all sequences, in blocks of equal size: how they are stored, written and read.

Why it exists: one layout serves the plain torch attention here and the GPU kernels, and one class
hides in which type numbers are kept. It decides nothing about blocks: which sequence owns which is
the scheduler's knowledge.

============= =========================================== =====================================
stored as     ``keys``, ``values``                        scales (fp32)
============= =========================================== =====================================
floats        ``[blocks + 1, block_size, heads, dim]``    none
float8_e4m3fn the same                                    one of 1: values beyond 448 are cut
int8          the same                                    ``[blocks + 1, block_size, heads]``
============= =========================================== =====================================

The last block is never written and stays zero: padded places of block tables are led to it, so that
a number of another sequence that is no number (NaN times zero is NaN) cannot leak. For the same
reason a block is cleared when its first place is written. A key or value that is not finite stays
so (fp8 keeps NaN, int8 a scale of NaN): its sequence's scores become NaN, and no other's.
"""

from __future__ import annotations

import torch
from deepseek_api.errors import ConfigurationError

__all__ = ["CACHE_DTYPES", "LayerCache", "PagedKVCache", "bytes_per_position"]

FLOAT8 = torch.float8_e4m3fn
CACHE_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": FLOAT8,
    "int8": torch.int8,
}  # fmt: skip
"""Types that keys and values can be stored in, by name."""
_LARGEST_FLOAT8 = 448.0


def bytes_per_position(heads: int, dims: tuple[int, int], dtype: torch.dtype) -> int:
    """Bytes of one layer's key and value of a position, scales included."""
    scales = 8 if dtype == torch.int8 else 0
    return heads * (sum(dims) * dtype.itemsize + scales)


class _Store:
    """Keys, or values, of one layer."""

    def __init__(
        self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.data = torch.zeros(shape, dtype=dtype, device=device)
        self.scale: torch.Tensor | None = None
        if dtype == torch.int8:
            self.scale = torch.ones(shape[:3], device=device)
        elif dtype == FLOAT8:
            self.scale = torch.ones(1, device=device)

    def clear(self, blocks: torch.Tensor) -> None:
        _bytes(self.data).index_fill_(0, blocks, 0)
        if self.data.dtype == torch.int8 and self.scale is not None:
            self.scale.index_fill_(0, blocks, 1.0)

    def write(self, slots: torch.Tensor, rows: torch.Tensor) -> None:
        if self.data.dtype == torch.int8 and self.scale is not None:
            largest = rows.float().abs().amax(-1)
            scale = (largest / 127).clamp_(min=torch.finfo(torch.float32).tiny)
            scale = torch.where(largest == 0, 1.0, scale)
            scale = torch.where(largest.isfinite(), scale, torch.nan)
            self.scale.flatten(0, 1).index_copy_(0, slots, scale)
            scaled = rows.float() / scale.unsqueeze(-1)
            rows = scaled.nan_to_num_(0.0).round_().clamp_(-127, 127).to(torch.int8)
        elif self.data.dtype == FLOAT8:
            wide = rows.float()
            cut = wide.clamp(-_LARGEST_FLOAT8, _LARGEST_FLOAT8)
            rows = torch.where(wide.isfinite(), cut, torch.nan).to(FLOAT8)
        else:
            rows = rows.to(self.data.dtype)
        _bytes(self.data).flatten(0, 1).index_copy_(0, slots, _bytes(rows))

    def read(self, blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """``[S, N * block_size, heads, dim]`` of blocks ``[S, N]``."""
        flat = blocks.reshape(-1)
        rows = _bytes(self.data).index_select(0, flat).view(self.data.dtype)
        if self.data.dtype == torch.int8 and self.scale is not None:
            rows = rows.float() * self.scale.index_select(0, flat).unsqueeze(-1)
        return rows.to(dtype).view(len(blocks), -1, *self.data.shape[2:])


class LayerCache:
    """Keys and values of one layer."""

    def __init__(
        self,
        blocks: int,
        block_size: int,
        heads: int,
        dims: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Allocate ``blocks`` and one of zeros; ``dims`` are those of a key and of a value."""
        self.keys = _Store((blocks + 1, block_size, heads, dims[0]), dtype, device)
        self.values = _Store((blocks + 1, block_size, heads, dims[1]), dtype, device)
        self.kernel_cache: object | None = None
        """The same tensors as GPU kernels take them, once they were asked for."""

    def write(
        self, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor, begun: torch.Tensor
    ) -> None:
        """Store ``[T, heads, dim]`` at ``slots`` int64 [T], after clearing blocks ``begun``."""
        for store, rows in ((self.keys, keys), (self.values, values)):
            if begun.numel():
                store.clear(begun)
            store.write(slots, rows)

    def read(self, blocks: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values ``[S, N * block_size, heads, dim]`` of blocks int64 ``[S, N]``."""
        return self.keys.read(blocks, dtype), self.values.read(blocks, dtype)


class PagedKVCache:
    """The caches of all layers (those of one rank, when the model is sharded)."""

    def __init__(
        self,
        layers: int,
        blocks: int,
        block_size: int,
        heads: int,
        dims: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Allocate everything.

        Raises:
            ConfigurationError: there would be no blocks, or blocks without places.
        """
        if blocks < 1 or block_size < 1:
            raise ConfigurationError(
                f"A cache of {blocks} blocks of {block_size} positions holds nothing.",
                hint="Give at least one block of one position.",
                reason="InvalidConfiguration",
            )
        self._blocks, self._block_size = blocks, block_size
        self.layers = [
            LayerCache(blocks, block_size, heads, dims, dtype=dtype, device=device)
            for _ in range(layers)
        ]

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self._blocks

    @property
    def block_size(self) -> int:
        """Positions in a block."""
        return self._block_size


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    # torch neither selects nor copies rows of fp8 on every device.
    return tensor.view(torch.uint8) if tensor.dtype == FLOAT8 else tensor
