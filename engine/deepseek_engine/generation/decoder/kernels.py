"""Attention by the GPU kernels of `deepseek_kernels`, in place of plain torch.

Why it exists: on a GPU norms of heads, rotation and the write into the cache are one launch,
attention reads the cache where it lies, and nothing waits for the device, so that a step can be
recorded as a graph. The kernels are imported when a model is loaded for a GPU, never before.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

from deepseek_engine.generation.config import DecoderConfig, Rope
from deepseek_engine.generation.decoder.cache import LayerCache
from deepseek_engine.generation.decoder.norms import RmsNorm
from deepseek_engine.generation.steps import StepInputs

__all__ = ["Kernels", "find_kernels"]

_OPS = "deepseek_kernels.ops"
_LARGEST_HEAD = 256


def find_kernels(
    config: DecoderConfig, device: torch.device, dtype: torch.dtype, cache_dtype: torch.dtype
) -> Kernels | None:
    """The kernels, or None where plain torch computes: no GPU, or a kind that they do not take."""
    taken = (
        device.type == "cuda"
        and config.latent is None
        and config.head_dim <= _LARGEST_HEAD
        and (cache_dtype == dtype or cache_dtype in (torch.int8, torch.float8_e4m3fn))
        and importlib.util.find_spec("triton") is not None
    )
    return Kernels() if taken else None


class Kernels:
    """Rotation with the write into the cache, and attention over it."""

    def __init__(self) -> None:
        """Import the kernels."""
        self._write = importlib.import_module(f"{_OPS}.rope_kv_write").rope_and_write
        self._attend = importlib.import_module(f"{_OPS}.paged_prefill").paged_prefill
        self._cache_type: Any = importlib.import_module(f"{_OPS}.paged_cache").PagedCache

    def turn_and_write(
        self,
        rows: torch.Tensor,
        heads: tuple[int, int],
        cache: LayerCache,
        inputs: StepInputs,
        *,
        rope: Rope | None,
        turns: tuple[torch.Tensor, torch.Tensor] | None,
        numbers: torch.Tensor,
        norm: RmsNorm | None,
    ) -> torch.Tensor:
        """Normalize and rotate heads, and write keys and values.

        Args:
            rows: ``[T, heads + 2 kv_heads, dim]``: queries, keys, values.
            heads: of queries, and of keys.
            cache: of the layer.
            inputs: of the step.
            rope: the rotation.
            turns: cosines and sines fp32 ``[T, dim / 2]`` of the step's tokens.
            numbers: int64 [T], 0 to T - 1: the tables hold a row for each token, not for each
                position.
            norm: of query and key heads, a row of weights for each.

        Returns:
            Queries ``[T, heads, dim]``.
        """
        query, key, value = torch.split(rows, [*heads, heads[1]], 1)
        settings: dict[str, Any] = {}
        if norm is not None:
            settings |= {
                "query_norm": norm.weight[0],
                "key_norm": norm.weight[-1],
                "eps": norm.eps,
                "unit_offset": norm.unit_offset,
            }
        if rope is not None and turns is not None:
            settings |= {"cos": turns[0], "sin": turns[1], "interleaved": rope.interleaved}
        turned: torch.Tensor = self._write(
            query, key, value, self._of(cache), positions=numbers, slots=inputs.slots, **settings
        )
        return turned

    def attend(
        self,
        queries: torch.Tensor,
        cache: LayerCache,
        inputs: StepInputs,
        *,
        scale: float,
        window: int,
    ) -> torch.Tensor:
        """Attention of queries ``[T, heads, dim]``, as `paged.attend` defines it."""
        found: torch.Tensor = self._attend(
            queries,
            self._of(cache),
            block_tables=inputs.block_tables,
            query_starts=inputs.query_starts,
            context_lengths=inputs.context_lengths,
            max_query=inputs.max_query,
            max_context=inputs.max_context,
            scale=scale,
            window=window or None,
        )
        return found

    def _of(self, cache: LayerCache) -> Any:
        if cache.kernel_cache is None:
            keys, values = cache.keys, cache.values
            cache.kernel_cache = self._cache_type(keys.data, values.data, keys.scale, values.scale)
        return cache.kernel_cache
