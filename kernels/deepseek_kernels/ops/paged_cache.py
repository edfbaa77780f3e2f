"""Keys and values of all sequences of one layer, in blocks, as 16-bit floats, fp8 or int8.

Why it exists: the kernel that writes the cache, those that read it and whoever allocates it must
agree on one layout, and a wrong scale or shape is named where the cache is made. It decides nothing
about blocks: which sequence owns which is the scheduler's knowledge.

============ ========================================== ===========================================
dtype        ``keys``, ``values``                       ``key_scale``, ``value_scale`` (float32)
============ ========================================== ===========================================
16, 32 bit   ``[blocks, block_size, kv_heads, head_dim]`` None
float8_e4m3  the same                                   ``[1]``, given by the caller and only read
int8         the same                                   ``[blocks, block_size, kv_heads]``, written
============ ========================================== ===========================================

A number is ``stored * scale``. fp8 has one scale for the whole tensor, 1 where nothing was
calibrated: values beyond 448 times it are cut. int8 has a scale for each position and head, found
when the position is written (``ops.elementwise`` has the rule). Where a key or value is not finite,
fp8 stores NaN and int8 a scale of NaN, so that the answer of its sequence becomes NaN and no other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.elementwise import FLOATS, quantize_rows

__all__ = ["FLOAT8", "PagedCache", "kind_of"]

FLOAT8 = torch.float8_e4m3fn
_LARGEST_FLOAT8 = 448.0


def kind_of(dtype: torch.dtype) -> int:
    """How kernels tell caches apart: 0 floats, 1 fp8, 2 int8."""
    return {FLOAT8: 1, torch.int8: 2}.get(dtype, 0)


@dataclass(frozen=True, slots=True)
class PagedCache:
    """The cache of one layer; tensors are contiguous and on one device.

    Raises:
        KernelArgumentError: a tensor has another shape, dtype, layout or device; it names it.
    """

    keys: Tensor
    values: Tensor
    key_scale: Tensor | None = None
    value_scale: Tensor | None = None

    def __post_init__(self) -> None:
        if self.keys.dim() != 4 or self.keys.dtype not in (*FLOATS, FLOAT8, torch.int8):
            raise KernelArgumentError(
                f"keys: is {self.keys.dtype} {list(self.keys.shape)}; give float16, bfloat16, "
                "float32, float8_e4m3fn or int8 [blocks, block_size, kv_heads, head_dim]"
            )
        _require("keys", self.keys, self.keys.shape, self.keys.dtype, self.keys.device)
        _require("values", self.values, self.keys.shape, self.keys.dtype, self.keys.device)
        scales = {"key_scale": self.key_scale, "value_scale": self.value_scale}
        for name, scale in scales.items():
            if (scale is None) != (self.keys.dtype in FLOATS):
                kept = "none; 16-bit caches have no scale" if scale is not None else "one"
                raise KernelArgumentError(f"{name}: the cache is {self.keys.dtype}; give {kept}")
            if scale is not None:
                shape = self.keys.shape[:3] if self.keys.dtype == torch.int8 else (1,)
                _require(name, scale, torch.Size(shape), torch.float32, self.keys.device)

    @classmethod
    def allocate(
        cls,
        blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        key_scale: float = 1.0,
        value_scale: float = 1.0,
    ) -> PagedCache:
        """An empty cache; scales are those of fp8 and ignored for other types.

        Raises:
            KernelArgumentError: no cache has this dtype.
        """
        shape = (blocks, block_size, kv_heads, head_dim)
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        if dtype == torch.int8:
            ones = [torch.ones(shape[:3], device=device) for _ in range(2)]
            return cls(keys, values, *ones)
        if dtype == FLOAT8:
            given = [torch.tensor([s], device=device) for s in (key_scale, value_scale)]
            return cls(keys, values, *given)
        return cls(keys, values)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.keys.shape[0]

    @property
    def block_size(self) -> int:
        """Positions in a block."""
        return self.keys.shape[1]

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.keys.shape[2]

    @property
    def head_dim(self) -> int:
        """Numbers in a head."""
        return self.keys.shape[3]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """As custom operations take them."""
        return self.keys, self.values, self.key_scale, self.value_scale

    def gather(self, blocks: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of given blocks, as plain numbers.

        Args:
            blocks: integers of any shape ``[...]``.
            dtype: of the result; products with scales are in float32, or in float64 for that.

        Returns:
            Two of ``[..., block_size, kv_heads, head_dim]``.
        """
        at = blocks.long()
        found = []
        for stored, scale in ((self.keys, self.key_scale), (self.values, self.value_scale)):
            # By bytes: float8 has no gather on every device.
            rows = (
                stored.view(torch.uint8)[at].view(stored.dtype)
                if scale is not None
                else (stored[at])
            )
            if scale is not None:
                by = scale if scale.numel() == 1 and scale.dim() == 1 else scale[at].unsqueeze(-1)
                wide = torch.float64 if dtype == torch.float64 else torch.float32
                rows = rows.to(wide) * by.to(wide)
            found.append(rows.to(dtype))
        return found[0], found[1]

    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Store float32 ``[T, kv_heads, head_dim]`` at ``slots [T]`` in plain torch; -1 skips.

        Raises:
            KernelArgumentError: a slot lies outside of the cache.
        """
        if slots.numel() and int(slots.max()) >= self.blocks * self.block_size:
            raise KernelArgumentError(
                f"slots: {int(slots.max())} lies outside of {self.blocks} blocks of "
                f"{self.block_size}; give less, or -1 to write nothing"
            )
        taken = slots >= 0
        block, place = slots[taken] // self.block_size, slots[taken] % self.block_size
        for stored, scale, rows in (
            (self.keys, self.key_scale, keys[taken]),
            (self.values, self.value_scale, values[taken]),
        ):
            if scale is None:
                stored[block, place] = rows.to(stored.dtype)
            elif stored.dtype == torch.int8:
                stored[block, place], scale[block, place] = quantize_rows(rows, torch.int8)
            else:
                scaled = (rows * scale.reciprocal()).clamp(-_LARGEST_FLOAT8, _LARGEST_FLOAT8)
                scaled = torch.where(rows.isfinite(), scaled, torch.nan)
                bits = scaled.to(FLOAT8).view(torch.uint8)
                stored.view(torch.uint8)[block, place] = bits


def _require(
    name: str, tensor: Tensor, shape: torch.Size, dtype: torch.dtype, device: torch.device
) -> None:
    if tensor.shape != shape or tensor.dtype != dtype or tensor.device != device:
        raise KernelArgumentError(
            f"{name}: is {tensor.dtype} {list(tensor.shape)} on {tensor.device}; "
            f"give {dtype} {list(shape)} on {device}"
        )
    if not tensor.is_contiguous():
        raise KernelArgumentError(f"{name}: is not contiguous; allocate it by itself")
