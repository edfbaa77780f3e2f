"""Attention of a few tokens of each sequence over keys and values in a paged cache.

Why it exists: while sequences decode, attention reads every key and value once and computes little,
so that it is as fast as the cache can be read. Reading it through block tables saves the copy that
torch's attention would need; query heads that share a head of keys are one tile, so that it is read
once for all of them; a long context is cut in parts, so that few sequences fill the GPU; fp8 and
int8 caches are read as they lie. For prompts use ``paged_prefill``, which calls this one where no
library path fits.

What a decoder calls is ``paged_decode``. Its contract:

* T rows of S sequences, one after the other: ``q [T, heads, head_dim]`` after ``rope_and_write``,
  which has written the keys and values of this step into the cache already.
* ``query_starts`` int32 [S + 1]: rows of sequence s are ``query_starts[s]:query_starts[s + 1]``;
  they are its last positions. Rows that belong to no sequence are not written.
* ``context_lengths`` int32 [S]: positions that the last row of a sequence sees, its own included. A
  row that sees nothing (a length of 0, for padding) gives zeros.
* ``block_tables`` int32 [S, B]: blocks of each sequence in order; every number that a length
  reaches lies in the cache. That is the scheduler's promise and not checked: the host cannot look
  without waiting.
* ``max_query`` and ``max_context`` are bounds known to the host; they decide how much is launched.
  A recorded graph keeps them, and serves shorter contexts too.
* A token sees positions up to its own, the last ``window`` of them if a window is given. Heads
  ``[h * group, (h + 1) * group)`` of the queries share head h of the keys.
* Launches only: nothing waits for the device. The same inputs give the same bits. Not for training.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from deepseek_kernels.configuration import KernelConfig, config_for
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.common import processors, require_fp8_support
from deepseek_kernels.ops.elementwise import check_float, on_device_of
from deepseek_kernels.ops.paged_cache import FLOAT8, PagedCache, kind_of
from deepseek_kernels.ops.paged_kernel import attention_kernel, merge_kernel

__all__ = ["check_attention", "launch", "paged_decode", "parts_for", "reference"]

MAX_HEAD_DIM = 256
_MAX_PARTS = 64
_LEAST_POSITIONS = 128
"""Of a part: its result is written and read again in float32, which should be little beside it."""
_FULL = 2
"""Programs that a multiprocessor runs at once, by their shared memory."""


def paged_decode(
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
    """Attention of queries over the paged cache; the module has the contract.

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
        ``[T, heads, head_dim]`` in the type of q, contiguous.

    Raises:
        KernelArgumentError: shapes, types, devices or settings do not fit.
        KernelUnavailableError: an fp8 cache on a GPU that has none.
    """
    tables = (block_tables, query_starts, context_lengths)
    check_attention(q, cache, *tables, max_query, max_context, window, softcap)
    found: Tensor = _operation(
        q, *cache.tensors, *tables, max_query, max_context,
        q.shape[2] ** -0.5 if scale is None else scale, window or 0, softcap or 0.0,
    )  # fmt: skip
    return found


def check_attention(
    q: Tensor,
    cache: PagedCache,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    max_query: int,
    max_context: int,
    window: int | None,
    softcap: float | None,
) -> None:
    """Check arguments as ``paged_decode`` takes them, without a look at values on a device.

    Raises:
        KernelArgumentError: it names the argument that does not fit.
    """
    check_float("q", q)
    fits = q.dim() == 3 and q.shape[2] == cache.head_dim and q.device == cache.keys.device
    if not fits or q.shape[1] == 0 or q.shape[1] % cache.kv_heads:
        raise KernelArgumentError(
            f"q: is {list(q.shape)} on {q.device}; give [T, heads, {cache.head_dim}] on "
            f"{cache.keys.device}, heads a multiple of {cache.kv_heads}"
        )
    if cache.head_dim > MAX_HEAD_DIM:
        raise KernelArgumentError(
            f"cache: has heads of {cache.head_dim}; at most {MAX_HEAD_DIM} fit"
        )
    if cache.key_scale is None and cache.keys.dtype != q.dtype:
        raise KernelArgumentError(
            f"q: is {q.dtype}; the cache needs {cache.keys.dtype}, convert one of them"
        )
    sequences = block_tables.shape[0] if block_tables.dim() == 2 else -1
    for name, tensor, shape in (
        ("block_tables", block_tables, (sequences, *block_tables.shape[1:])),
        ("query_starts", query_starts, (sequences + 1,)),
        ("context_lengths", context_lengths, (sequences,)),
    ):
        if (
            tensor.dtype != torch.int32
            or tuple(tensor.shape) != shape
            or tensor.device != q.device
            or not tensor.is_contiguous()
        ):
            raise KernelArgumentError(
                f"{name}: is {tensor.dtype} {list(tensor.shape)} on {tensor.device}; give "
                f"contiguous int32 on {q.device}, for {max(0, sequences)} sequences"
            )
    if max_query < 1 or not 0 <= max_context <= block_tables.shape[1] * cache.block_size:
        raise KernelArgumentError(
            f"max_query, max_context: are {max_query} and {max_context}; give 1 at least, and at "
            f"most {block_tables.shape[1]} blocks of {cache.block_size}"
        )
    for name, value in (("window", window), ("softcap", softcap)):
        if value is not None and not 0 < value < math.inf:
            raise KernelArgumentError(f"{name}: is {value}; give more than 0, or None")


def reference(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    max_query: int,
    max_context: int,
    scale: float,
    window: int,
    softcap: float,
    *,
    accumulate: torch.dtype = torch.float32,
) -> Tensor:
    """The same in plain torch, sequence by sequence; 0 for no window and no cap.

    With ``accumulate`` float64 the result stays in float64: the reference of tests.
    """
    cache = PagedCache(keys, values, key_scale, value_scale)
    out = q.new_zeros(q.shape, dtype=accumulate)
    starts = query_starts.tolist()
    for s, length in enumerate(context_lengths.tolist()):
        rows = slice(starts[s], starts[s + 1])
        count, blocks = rows.stop - rows.start, -(-length // cache.block_size)
        if not count or not length:
            continue
        k, v = (part.flatten(0, 1)[:length] for part in
                cache.gather(block_tables[s, :blocks], accumulate))  # fmt: skip
        grouped = q[rows].to(accumulate).reshape(count, cache.kv_heads, -1, q.shape[2])
        scores = torch.einsum("thgd,phd->thgp", grouped, k) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        own = torch.arange(length - count, length, device=q.device)[:, None]
        at = torch.arange(length, device=q.device)[None, :]
        seen = (at <= own) & ((at > own - window) if window else True)
        scores = scores.masked_fill(~seen[:, None, None, :], -math.inf)
        # A row before the first position sees nothing; its scores are all -inf.
        weights = torch.where(seen.any(1)[:, None, None, None], scores.softmax(-1), 0.0)
        out[rows] = torch.einsum("thgp,phd->thgd", weights, v).flatten(1, 2)
    return out if accumulate == torch.float64 else out.to(q.dtype)


def parts_for(programs: int, positions: int, processors: int) -> int:
    """Parts of the context (a power of 2) that fill a GPU best, for so many programs without.

    The smallest number whose last wave of programs leaves hardly more idle than that of the best.
    """
    room = _FULL * processors
    candidates = [1]
    while candidates[-1] < _MAX_PARTS and positions >= 2 * candidates[-1] * _LEAST_POSITIONS:
        candidates.append(2 * candidates[-1])
    busy = {n: programs * n / room / math.ceil(programs * n / room) for n in candidates}
    return min(n for n in candidates if busy[n] >= 0.9 * max(busy.values()))


def launch(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    max_query: int,
    max_context: int,
    scale: float,
    window: int,
    softcap: float,
    config: KernelConfig | None = None,
) -> Tensor:
    """The same by Triton kernels; the arguments were checked by ``paged_decode``.

    ``config`` overrides the tiles of the GPU's table: ``block_m`` counts query heads, ``block_n``
    positions, ``split_k`` parts of the context.
    """
    if keys.dtype == FLOAT8:
        require_fp8_support(keys.device)
    (tokens, heads, dim), (_, page, kv_heads, _) = q.shape, keys.shape
    out, sequences = q.new_empty(q.shape), context_lengths.shape[0]
    if not tokens or not sequences:
        return out
    if q.stride(2) != 1:
        q = q.contiguous()
    width, group = triton.next_power_of_2(dim), heads // kv_heads
    rows = max_query * group
    config = config or config_for(f"paged_attention_{max(64, width)}", rows, dim, page, q.device)
    # Tensor cores multiply 16 rows at least, and 16 numbers of a head.
    block_m, width = min(config.block_m, max(16, triton.next_power_of_2(rows))), max(16, width)
    # Tiles are for elements of two bytes; those of four take the same room with half as many.
    block_n = max(16, config.block_n // (2 if keys.element_size() == 4 else 1))
    tiles = triton.cdiv(rows, block_m)
    parts = config.split_k or parts_for(
        tiles * kv_heads * sequences, max_context, processors(q.device)
    )
    partial, sums = out, q
    if parts > 1:
        partial = torch.empty(parts, *q.shape, dtype=torch.float32, device=q.device)
        sums = torch.empty(parts, tokens, heads, dtype=torch.float32, device=q.device)
    with on_device_of(q):
        attention_kernel[(tiles * parts, kv_heads, sequences)](
            q, keys, values,
            keys if key_scale is None else key_scale,
            values if value_scale is None else value_scale,
            block_tables, query_starts, context_lengths, partial, sums,
            scale, softcap, window, tokens, *q.stride()[:2], block_tables.stride(0),
            KV_HEADS=kv_heads, GROUP=group, PAGE=page, DIM=dim, WIDTH=width,
            HAS_WINDOW=window > 0, HAS_SOFTCAP=softcap > 0, CACHE=kind_of(keys.dtype),
            ROWS=block_m, POSITIONS=block_n, PARTS=parts,
            num_warps=config.num_warps, num_stages=config.num_stages,
        )  # fmt: skip
        if parts > 1:
            each = max(1, 1024 // width)
            merge_kernel[(triton.cdiv(tokens * heads, each),)](
                partial, sums, out, tokens * heads,
                PARTS=parts, DIM=dim, WIDTH=width, ROWS=each, num_warps=4,
            )  # fmt: skip
    return out


@torch.library.custom_op("deepseek::paged_attention", mutates_args=(), device_types="cpu")
def _operation(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    max_query: int,
    max_context: int,
    scale: float,
    window: int,
    softcap: float,
) -> Tensor:
    return reference(
        q, keys, values, key_scale, value_scale, block_tables, query_starts, context_lengths,
        max_query, max_context, scale, window, softcap,
    )  # fmt: skip


_operation.register_kernel("cuda")(launch)
_operation.register_fake(lambda q, *_: q.new_empty(q.shape))
