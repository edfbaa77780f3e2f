"""The Triton kernel of ``rope_kv_write``, which has the contract; only that calls it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseek_kernels.ops.common import require_fp8_support
from deepseek_kernels.ops.elementwise import magnitude, on_device_of, round_to, symmetric_scale
from deepseek_kernels.ops.paged_cache import FLOAT8, kind_of

__all__ = ["Tile", "launch", "rope_kv_write_kernel", "tile_of"]

_INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def _turned(
    rows: tl.tensor,
    inside: tl.tensor,
    norm: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    position: tl.tensor,
    table: tl.tensor,
    eps: tl.tensor,
    DIM: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HAS_NORM: tl.constexpr,
    UNIT_OFFSET: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Read heads at ``rows [HEADS, 1]``; give rotated halves ``[HEADS, HALF]``, and the rest."""
    i = tl.arange(0, HALF)[None, :]
    turns = i < ROTARY // 2
    rest_at = ROTARY + tl.arange(0, REST)[None, :]
    stays = rest_at < DIM
    if INTERLEAVED:
        # Read as they lie, so that a thread reads neighbours at once.
        j = tl.arange(0, 2 * HALF)[None, :]
        both = tl.load(rows + j, mask=inside & (j < ROTARY), other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(both, (HEADS, HALF, 2)))
        first_at, second_at = 2 * i, 2 * i + 1
    else:
        first_at, second_at = i, i + ROTARY // 2
        first = tl.load(rows + first_at, mask=inside & turns, other=0.0).to(tl.float32)
        second = tl.load(rows + second_at, mask=inside & turns, other=0.0).to(tl.float32)
    rest = tl.load(rows + rest_at, mask=inside & stays, other=0.0).to(tl.float32)
    if HAS_NORM:
        squares = tl.sum(first * first, 1) + tl.sum(second * second, 1) + tl.sum(rest * rest, 1)
        by = tl.rsqrt(squares / DIM + eps)[:, None]
        offset = 1.0 if UNIT_OFFSET else 0.0
        first *= by * (tl.load(norm + first_at, mask=turns, other=0.0).to(tl.float32) + offset)
        second *= by * (tl.load(norm + second_at, mask=turns, other=0.0).to(tl.float32) + offset)
        rest *= by * (tl.load(norm + rest_at, mask=stays, other=0.0).to(tl.float32) + offset)
    if ROTARY > 0:
        at = tl.where(turns, position, 0)
        known = (at >= 0) & (at < table)
        at = at * (ROTARY // 2) + i
        c = tl.load(cos + at, mask=turns & known, other=float("nan")).to(tl.float32)
        s = tl.load(sin + at, mask=turns & known, other=float("nan")).to(tl.float32)
        turned_first, turned_second = first * c - second * s, second * c + first * s
        # What is not turned would be NaN too and hide the largest number of an int8 row.
        first = tl.where(turns, turned_first, 0.0)
        second = tl.where(turns, turned_second, 0.0)
    return first, second, rest


@triton.jit
def _stored(x: tl.tensor, inverse: tl.tensor, CACHE: tl.constexpr) -> tl.tensor:
    """Float32 as the cache stores it, fp8 as bytes."""
    if CACHE == 0:
        stored = x
    elif CACHE == 1:
        bits = round_to(x * inverse, 448.0, False).to(tl.uint8, bitcast=True)
        stored = tl.where(tl.abs(x) < _INFINITY, bits, 0x7F).to(tl.uint8)
    else:
        stored = round_to(x * inverse, 127.0, True)
    return stored


@triton.jit
def _store_turned(
    rows: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    rest: tl.tensor,
    inside: tl.tensor,
    DIM: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
) -> None:
    """Write what ``_turned`` gave to heads at ``rows [HEADS, 1]``."""
    kind = rows.dtype.element_ty
    if INTERLEAVED:
        j = tl.arange(0, 2 * HALF)[None, :]
        both = tl.reshape(tl.join(first, second), (HEADS, 2 * HALF))
        tl.store(rows + j, both.to(kind), mask=inside & (j < ROTARY))
    else:
        i = tl.arange(0, HALF)[None, :]
        turns = inside & (i < ROTARY // 2)
        tl.store(rows + i, first.to(kind), mask=turns)
        tl.store(rows + ROTARY // 2 + i, second.to(kind), mask=turns)
    rest_at = ROTARY + tl.arange(0, REST)[None, :]
    tl.store(rows + rest_at, rest.to(kind), mask=inside & (rest_at < DIM))


@triton.jit
def rope_kv_write_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scale: tl.tensor,
    value_scale: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    query_norm: tl.tensor,
    key_norm: tl.tensor,
    eps: tl.tensor,
    table: tl.tensor,
    capacity: tl.tensor,
    stride_qt: tl.tensor,
    stride_qh: tl.tensor,
    stride_kt: tl.tensor,
    stride_kh: tl.tensor,
    stride_vt: tl.tensor,
    stride_vh: tl.tensor,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HAS_NORM: tl.constexpr,
    UNIT_OFFSET: tl.constexpr,
    CACHE: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """One program: one token and HEADS of its heads, of the queries or of keys and values.

    ``table`` counts the rows of cos and sin, ``capacity`` the slots.
    """
    token = tl.program_id(0).to(tl.int64)
    Q_TILES: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    position = tl.load(positions + token)
    if tl.program_id(1) < Q_TILES:
        head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
        inside = head < Q_HEADS
        first, second, rest = _turned(
            q + token * stride_qt + head * stride_qh, inside, query_norm, cos, sin, position,
            table, eps, DIM, ROTARY, INTERLEAVED, HAS_NORM, UNIT_OFFSET, HEADS, HALF, REST,
        )  # fmt: skip
        _store_turned(
            out + (token * Q_HEADS + head) * DIM, first, second, rest, inside,
            DIM, ROTARY, INTERLEAVED, HEADS, HALF, REST,
        )  # fmt: skip
    else:
        slot = tl.load(slots + token)
        flat = (tl.program_id(1) - Q_TILES) * HEADS + tl.arange(0, HEADS)
        to = tl.where(flat < KV_HEADS, slot, -1)
        taken = (to >= 0) & (to < capacity)
        head, inside = flat[:, None], taken[:, None]
        first, second, rest = _turned(
            k + token * stride_kt + head * stride_kh, inside, key_norm, cos, sin, position,
            table, eps, DIM, ROTARY, INTERLEAVED, HAS_NORM, UNIT_OFFSET, HEADS, HALF, REST,
        )  # fmt: skip
        d = tl.arange(0, WIDTH)[None, :]
        value = tl.load(
            v + token * stride_vt + head * stride_vh + d, mask=inside & (d < DIM), other=0.0
        ).to(tl.float32)
        at = slot * KV_HEADS
        by_key, by_value = 1.0, 1.0
        if CACHE == 1:
            by_key = tl.div_rn(1.0, tl.load(key_scale))
            by_value = tl.div_rn(1.0, tl.load(value_scale))
        if CACHE == 2:
            peak = tl.maximum(tl.max(magnitude(first), 1), tl.max(magnitude(second), 1))
            scale = symmetric_scale(tl.maximum(peak, tl.max(magnitude(rest), 1)), 127.0)
            tl.store(key_scale + at + flat, scale, mask=taken)
            by_key = tl.div_rn(1.0, scale)[:, None]
            scale = symmetric_scale(tl.max(magnitude(value), 1), 127.0)
            tl.store(value_scale + at + flat, scale, mask=taken)
            by_value = tl.div_rn(1.0, scale)[:, None]
        row = (at + head) * DIM
        _store_turned(
            keys + row, _stored(first, by_key, CACHE), _stored(second, by_key, CACHE),
            _stored(rest, by_key, CACHE), inside, DIM, ROTARY, INTERLEAVED, HEADS, HALF, REST,
        )  # fmt: skip
        stored = _stored(value, by_value, CACHE).to(values.dtype.element_ty)
        tl.store(values + row + d, stored, mask=inside & (d < DIM))


class Tile(NamedTuple):
    """Sizes of a program's tile: heads, half of what is rotated, what is not, and a whole head."""

    heads: int
    half: int
    rest: int
    width: int


def tile_of(head_dim: int, rotary: int) -> Tile:
    """The tile for a head: about 1024 numbers, eight for each of 128 threads."""
    width = triton.next_power_of_2(head_dim)
    half, rest = triton.next_power_of_2(max(1, rotary // 2)), max(1, head_dim - rotary)
    return Tile(max(1, 1024 // width), half, triton.next_power_of_2(rest), width)


def launch(
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
    """The same by the Triton kernel; the arguments were checked by ``rope_and_write``."""
    kind = kind_of(keys.dtype)
    if keys.dtype == FLOAT8:
        require_fp8_support(keys.device)
        keys, values = keys.view(torch.uint8), values.view(torch.uint8)
    q, k, v = (rows if rows.stride(2) == 1 else rows.contiguous() for rows in (q, k, v))
    (tokens, q_heads, _), (blocks, size, kv_heads, dim) = q.shape, keys.shape
    out = q.new_empty(q.shape)
    rotary = 0 if cos is None else 2 * cos.shape[1]
    tile = tile_of(dim, rotary)
    if tokens:
        tiles = triton.cdiv(q_heads, tile.heads) + triton.cdiv(kv_heads, tile.heads)
        with on_device_of(keys):
            rope_kv_write_kernel[(tokens, tiles)](
                q, k, v, out, keys, values,
                keys if key_scale is None else key_scale,
                values if value_scale is None else value_scale,
                q if cos is None else cos,
                q if sin is None else sin,
                positions, slots,
                q if query_norm is None else query_norm.contiguous(),
                q if key_norm is None else key_norm.contiguous(),
                eps,
                0 if cos is None else cos.shape[0],
                blocks * size,
                *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
                Q_HEADS=q_heads, KV_HEADS=kv_heads, DIM=dim, ROTARY=rotary,
                INTERLEAVED=interleaved, HAS_NORM=query_norm is not None, UNIT_OFFSET=unit_offset,
                CACHE=kind, HEADS=tile.heads, HALF=tile.half, REST=tile.rest, WIDTH=tile.width,
                num_warps=4,
            )  # fmt: skip
    return out
