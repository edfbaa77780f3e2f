"""Rotary positions for queries and keys, and keys and values into the paged cache, in one pass.

Why it exists: between the projection of a layer and its attention stand up to seven small
operations (norms of heads, two rotations, two scattered writes, their quantization), each a launch
and a round trip through memory for a few kilobytes. Here every number is read and written once.

What a decoder calls is ``rope_and_write``. Its contract:

* T rows, in the order of the step: ``q [T, heads, head_dim]``, ``k`` and ``v [T, kv_heads,
  head_dim]``; they may be slices of one projection (only the last axis has to be dense).
* ``positions`` int64 [T] pick rows of the tables ``cos``, ``sin`` ``[P, rotary / 2]`` of any float
  type. How frequencies are scaled is in the tables. Where a step has made rows for its own tokens,
  those are the tables, and positions are ``0 ... T - 1``. The first ``rotary`` numbers of a head
  are rotated, in pairs ``(i, i + rotary / 2)``, or ``(2i, 2i + 1)`` if interleaved; the others
  stay. A position outside of the tables gives NaN, which fails its sequence and no other. Without
  tables nothing is rotated.
* ``slots`` int64 [T]: block number times block size plus offset; -1 writes nothing, as for the
  padding of a recorded graph. On a GPU a slot beyond the cache writes nothing either; the host
  cannot look without waiting.
* With ``query_norm``, ``key_norm`` each head is normalized before it is rotated (RMS; Qwen 3, Gemma
  3), with ``1 + weight`` if ``unit_offset``.
* Computed in float32 and rounded once. Launches only: nothing waits for the device, so that a step
  can be recorded as a graph. Not for training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.elementwise import FLOATS, check_float, check_like
from deepseek_kernels.ops.paged_cache import PagedCache
from deepseek_kernels.ops.rope_kernel import launch

__all__ = ["launch", "reference", "rope_and_write"]


def rope_and_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: PagedCache,
    *,
    positions: Tensor,
    slots: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    interleaved: bool = False,
    query_norm: Tensor | None = None,
    key_norm: Tensor | None = None,
    eps: float = 1e-6,
    unit_offset: bool = False,
) -> Tensor:
    """Rotate queries and keys, write keys and values; the module has the contract.

    Args:
        q: ``[T, heads, head_dim]``, float32, float16 or bfloat16.
        k: ``[T, kv_heads, head_dim]`` of the same type.
        v: like k.
        cache: of the layer; changed.
        positions: int64 [T].
        slots: int64 [T].
        cos: ``[P, rotary / 2]``, or None for no rotation; float32 is best.
        sin: like cos.
        interleaved: pairs are neighbours.
        query_norm: ``[head_dim]``, or None; with it ``key_norm`` too.
        key_norm: ``[head_dim]``, or None.
        eps: of the norms.
        unit_offset: norms multiply by ``1 + weight``.

    Returns:
        The queries ``[T, heads, head_dim]``, contiguous; q itself if nothing is done to it.

    Raises:
        KernelArgumentError: shapes, types, layouts or devices do not fit.
        KernelUnavailableError: an fp8 cache on a GPU that has none.
    """
    _check_rows(q, k, v, cache)
    _check_places(q, positions, slots)
    _check_tables(q, cos, sin)
    if (query_norm is None) != (key_norm is None):
        raise KernelArgumentError("query_norm, key_norm: one is missing; give both or none")
    for name, weight in (("query_norm", query_norm), ("key_norm", key_norm)):
        if weight is not None:
            check_like(name, weight, (cache.head_dim,), q)
    # An operation must not give back its argument, so that queries stay out if nothing is done.
    idle = cos is None and query_norm is None
    found: Tensor = _operation(
        q[:, :0] if idle else q, k, v, *cache.tensors, positions, slots, cos, sin,
        query_norm, key_norm, interleaved, eps, unit_offset,
    )  # fmt: skip
    return q if idle else found


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    positions: Tensor,
    slots: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    interleaved: bool,
    eps: float,
    unit_offset: bool,
) -> Tensor:
    """The same in plain torch, in float32; the cache's tensors are changed."""
    rotated = []
    for rows, weight in ((q, query_norm), (k, key_norm)):
        wide = rows.float()
        if weight is not None:
            wide = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
            wide = wide * (weight.float() + (1.0 if unit_offset else 0.0))
        if cos is not None and sin is not None:
            wide = _rotate(wide, positions, cos, sin, interleaved)
        rotated.append(wide)
    cache = PagedCache(keys, values, key_scale, value_scale)
    cache.write(rotated[1], v.float(), slots)
    # A copy where nothing was done: an operation must not give back its argument.
    return rotated[0].to(q.dtype, copy=True).contiguous()


def _rotate(wide: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    half = cos.shape[1]
    known = (positions >= 0) & (positions < cos.shape[0])
    at = positions.clamp(0, max(0, cos.shape[0] - 1))
    c, s = (torch.where(known[:, None], t[at].float(), torch.nan)[:, None] for t in (cos, sin))
    turned = wide[..., : 2 * half]
    pairs = (
        (turned[..., ::2], turned[..., 1::2])
        if interleaved
        else (turned[..., :half], turned[..., half:])
    )
    first, second = pairs[0] * c - pairs[1] * s, pairs[1] * c + pairs[0] * s
    joint = (
        torch.stack((first, second), -1).flatten(-2)
        if interleaved
        else torch.cat((first, second), -1)
    )
    return torch.cat((joint, wide[..., 2 * half :]), -1)


@torch.library.custom_op(
    "deepseek::rope_kv_write",
    mutates_args=("keys", "values", "key_scale", "value_scale"),
    device_types="cpu",
)
def _operation(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    positions: Tensor,
    slots: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    interleaved: bool,
    eps: float,
    unit_offset: bool,
) -> Tensor:
    return reference(
        q, k, v, keys, values, key_scale, value_scale, positions, slots, cos, sin,
        query_norm, key_norm, interleaved, eps, unit_offset,
    )  # fmt: skip


_operation.register_kernel("cuda")(launch)
_operation.register_fake(lambda q, *_: q.new_empty(q.shape))


def _check_rows(q: Tensor, k: Tensor, v: Tensor, cache: PagedCache) -> None:
    for name, rows, heads in (("q", q, None), ("k", k, cache.kv_heads), ("v", v, cache.kv_heads)):
        check_float(name, rows)
        wanted = (q.shape[0], heads or "heads", cache.head_dim)
        fits = rows.dim() == 3 and rows.shape[0] == q.shape[0] and rows.shape[2] == wanted[2]
        if not fits or (heads is not None and rows.shape[1] != heads):
            raise KernelArgumentError(
                f"{name}: has the shape {list(rows.shape)}; give [{', '.join(map(str, wanted))}]"
            )
        if rows.dtype != q.dtype or rows.device != cache.keys.device:
            raise KernelArgumentError(
                f"{name}: is {rows.dtype} on {rows.device}; give {q.dtype} on {cache.keys.device}"
            )


def _check_places(q: Tensor, positions: Tensor, slots: Tensor) -> None:
    for name, places in (("positions", positions), ("slots", slots)):
        if (
            places.dtype != torch.int64
            or tuple(places.shape) != (q.shape[0],)
            or places.device != q.device
            or not places.is_contiguous()
        ):
            raise KernelArgumentError(
                f"{name}: is {places.dtype} {list(places.shape)} on {places.device}; "
                f"give contiguous int64 [{q.shape[0]}] on {q.device}"
            )


def _check_tables(q: Tensor, cos: Tensor | None, sin: Tensor | None) -> None:
    if cos is None or sin is None:
        if cos is not sin:
            raise KernelArgumentError("cos, sin: one is missing; give both or none")
        return
    for name, table in (("cos", cos), ("sin", sin)):
        if (
            table.dtype not in FLOATS
            or table.dtype != cos.dtype
            or table.dim() != 2
            or table.shape != cos.shape
            or not 0 < 2 * table.shape[1] <= q.shape[2]
            or table.device != q.device
            or not table.is_contiguous()
        ):
            raise KernelArgumentError(
                f"{name}: is {table.dtype} {list(table.shape)} on {table.device}; give contiguous "
                f"floats [positions, rotary / 2], rotary at most {q.shape[2]}, on {q.device}"
            )
