"""Attention of many tokens of each sequence, a prompt or a chunk of one, over the paged cache.

Why it exists: a chunk of a prompt is bound by arithmetic, where libraries are ahead of kernels in
Triton (on published charts those reach 75 to 80 % of cuDNN). So keys and values are gathered from
their blocks, once and without quantization, and torch's ``varlen_attn`` (cuDNN, or FlashAttention
2) does the rest. The gather moves each number once, against ``max_query`` products with it.

It is not taken, and the kernel of ``paged_attention`` runs with larger tiles instead, where
``obstacle`` names a reason: scores with a soft cap, which the library lacks; few queries; types and
head sizes that it does not take; or a batch whose sequences, padded to the longest, would fill more
than 256 MiB, for example a long prompt among many short contexts. Torch before ``seqused_k`` (its
way to tell lengths without waiting for the device) has no library path here.

What a decoder calls is ``paged_prefill``; its contract is that of ``paged_decode``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepseek_kernels.ops.paged_attention import check_attention, paged_decode
from deepseek_kernels.ops.paged_cache import PagedCache

__all__ = ["by_library", "obstacle", "paged_prefill"]

_LEAST_QUERY = 64
"""Fewer rows of a sequence fill no tile of the library's kernels."""
_LARGEST_GATHER = 256 << 20
_HALVES = (torch.float16, torch.bfloat16)


def paged_prefill(
    q: Tensor,
    cache: PagedCache,
    *,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    max_query: int,
    max_context: int,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention of queries over the paged cache, for any number of rows of a sequence.

    Args:
        q: ``[T, heads, head_dim]``, float32, float16 or bfloat16.
        cache: of the layer; 16-bit and 32-bit ones have the type of q.
        block_tables: int32 [S, B].
        query_starts: int32 [S + 1].
        context_lengths: int32 [S].
        max_query: most rows of a sequence.
        max_context: largest of the lengths, or more.
        scale: of the scores; ``head_dim ** -0.5`` by default.
        window: positions that a token sees, its own included; None: all.
        softcap: scores s become ``softcap * tanh(s / softcap)``; None: they stay.

    Returns:
        ``[T, heads, head_dim]`` in the type of q.

    Raises:
        KernelArgumentError: shapes, types, devices or settings do not fit.
        KernelUnavailableError: an fp8 cache on a GPU that has none.
    """
    tables = (block_tables, query_starts, context_lengths)
    check_attention(q, cache, *tables, max_query, max_context, window, softcap)
    if obstacle(q, cache, len(context_lengths), max_query, max_context, softcap):
        return paged_decode(
            q, cache, block_tables=block_tables, query_starts=query_starts,
            context_lengths=context_lengths, max_query=max_query, max_context=max_context,
            scale=scale, window=window, softcap=softcap,
        )  # fmt: skip
    return by_library(q, cache, *tables, max_query, max_context, scale, window)


def obstacle(
    q: Tensor,
    cache: PagedCache,
    sequences: int,
    max_query: int,
    max_context: int,
    softcap: float | None = None,
) -> str:
    """Why the library is not used; empty where it is."""
    positions = -(-max_context // cache.block_size) * cache.block_size * sequences
    nbytes = 2 * positions * cache.kv_heads * cache.head_dim * q.element_size()
    reasons = {
        "not on a CUDA device": q.device.type != "cuda",
        "the library has no soft cap": softcap is not None,
        f"fewer than {_LEAST_QUERY} queries of a sequence": max_query < _LEAST_QUERY,
        f"no {q.dtype} in the library": q.dtype not in _HALVES,
        f"no heads of {cache.head_dim} in the library": cache.head_dim % 8 != 0,
        f"{nbytes >> 20} MiB to gather, at most {_LARGEST_GATHER >> 20}": nbytes > _LARGEST_GATHER,
        "this torch takes no lengths from the device": _varlen_attn() is None,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def by_library(
    q: Tensor,
    cache: PagedCache,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    max_query: int,
    max_context: int,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """The same through ``varlen_attn``; arguments were checked and ``obstacle`` was empty."""
    attend = _varlen_attn()
    assert attend is not None  # obstacle has asked
    blocks = -(-max_context // cache.block_size)
    keys, values = cache.gather(block_tables[:, :blocks], q.dtype)
    room = blocks * cache.block_size
    starts = torch.arange(len(context_lengths) + 1, dtype=torch.int32, device=q.device) * room
    # Causal from the last position back; the library counts a window without the token itself.
    left = -1 if window is None else window - 1
    return attend(
        q.contiguous(), keys.flatten(0, 2), values.flatten(0, 2), query_starts, starts,
        max_query, room,
        scale=scale, window_size=(left, 0), enable_gqa=True, seqused_k=context_lengths,
    )  # fmt: skip


@functools.cache
def _varlen_attn() -> Callable[..., Tensor] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    found: Callable[..., Any] = varlen_attn
    known = inspect.signature(found).parameters
    return found if {"scale", "window_size", "enable_gqa", "seqused_k"} <= set(known) else None
