"""The Triton kernels of ``paged_attention``, which has the contract; only that calls them.

A program holds the query heads that share a head of keys, of one or more tokens, and walks over a
part of the context. Each position's block is looked up by itself, so that blocks of any size fill
tiles of any size. With the context in parts, the second kernel joins them in a fixed order.
Scores are kept in powers of two: ``exp2`` is what the hardware has.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["attention_kernel", "merge_kernel"]

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
_NEVER: tl.constexpr = tl.constexpr(float("-inf"))


@triton.jit
def attention_kernel(
    q: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scale: tl.tensor,
    value_scale: tl.tensor,
    tables: tl.tensor,
    starts: tl.tensor,
    lengths: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    scale: tl.tensor,
    softcap: tl.tensor,
    window: tl.tensor,
    tokens: tl.tensor,
    stride_qt: tl.tensor,
    stride_qh: tl.tensor,
    stride_table: tl.tensor,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    CACHE: tl.constexpr,
    ROWS: tl.constexpr,
    POSITIONS: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """One program: ROWS query heads of one sequence, one head of keys, one of PARTS of the context.

    With one part ``out [T, heads, DIM]`` is the result. With more it is float32
    ``[PARTS, T, heads, DIM]``, and ``sums [PARTS, T, heads]`` gets the logarithm (base 2) of the
    sum that each was divided by.
    """
    first_row = tl.program_id(0) // PARTS * ROWS
    part = tl.program_id(0) % PARTS
    kv_head = tl.program_id(1)
    sequence = tl.program_id(2)
    start = tl.load(starts + sequence)
    count = tl.load(starts + sequence + 1) - start
    if first_row >= count * GROUP:
        return
    before = tl.load(lengths + sequence) - count
    row = first_row + tl.arange(0, ROWS)
    live = row < count * GROUP
    position = before + row // GROUP
    head = kv_head * GROUP + row % GROUP
    token = (start + row // GROUP).to(tl.int64)
    d = tl.arange(0, WIDTH)
    held_d = d < DIM
    query = tl.load(
        q + token[:, None] * stride_qt + head[:, None] * stride_qh + d[None, :],
        mask=live[:, None] & held_d[None, :],
        other=0.0,
    )
    if CACHE == 1:
        scale *= tl.load(key_scale)
    # What the first and the last token of the tile see bounds what is read.
    end = before + tl.minimum((first_row + ROWS - 1) // GROUP, count - 1) + 1
    begin = 0
    if HAS_WINDOW:
        begin = tl.maximum(before + first_row // GROUP - window + 1, 0) // POSITIONS * POSITIONS
    each = tl.cdiv(tl.cdiv(tl.maximum(end - begin, 0), POSITIONS), PARTS) * POSITIONS
    begin += part * each
    end = tl.minimum(end, begin + each)

    largest = tl.full([ROWS], _NEVER, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, WIDTH], tl.float32)
    peak = 0.0  # of the scales of int8 values
    for at in range(begin, end, POSITIONS):
        seen_at = at + tl.arange(0, POSITIONS)
        held = seen_at < end
        block = tl.load(tables + sequence * stride_table + seen_at // PAGE, mask=held, other=0)
        place = (block.to(tl.int64) * PAGE + seen_at % PAGE) * KV_HEADS + kv_head
        key = tl.load(
            keys + place[None, :] * DIM + d[:, None],
            mask=held[None, :] & held_d[:, None],
            other=0.0,
        )
        score = tl.dot(query, key.to(query.dtype), input_precision="ieee") * scale
        if CACHE == 2:
            score *= tl.load(key_scale + place, mask=held, other=0.0)[None, :]
        if HAS_SOFTCAP:
            # tanh u is twice the logistic function of 2 u, less 1.
            score = softcap * (2.0 * tl.sigmoid(2.0 * score / softcap) - 1.0)
        seen = held[None, :] & (seen_at[None, :] <= position[:, None])
        if HAS_WINDOW:
            seen = seen & (seen_at[None, :] > position[:, None] - window)
        score = tl.where(seen, score * _LOG2_E, _NEVER)
        larger = tl.maximum(largest, tl.max(score, 1))
        # A row that has seen nothing yet has no largest score to take away.
        base = tl.where(larger == _NEVER, 0.0, larger)
        weight = tl.exp2(score - base[:, None])
        kept = tl.exp2(largest - base)
        total = total * kept + tl.sum(weight, 1)
        if CACHE == 2:
            # Scales relative to the largest so far: small ones would vanish in float16.
            by = tl.load(value_scale + place, mask=held, other=0.0)
            higher = tl.maximum(peak, tl.max(by, 0))
            weight *= (by / higher)[None, :]
            kept *= peak / higher
            peak = higher
        value = tl.load(
            values + place[:, None] * DIM + d[None, :],
            mask=held[:, None] & held_d[None, :],
            other=0.0,
        ).to(query.dtype)
        mixed = tl.dot(weight.to(query.dtype), value, mixed * kept[:, None], input_precision="ieee")
        largest = larger

    mixed /= tl.where(total == 0.0, 1.0, total)[:, None]
    if CACHE == 1:
        mixed *= tl.load(value_scale)
    if CACHE == 2:
        mixed *= peak
    at_row = (part * tokens + token) * (KV_HEADS * GROUP) + head
    tl.store(
        out + at_row[:, None] * DIM + d[None, :],
        mixed.to(out.dtype.element_ty),
        mask=live[:, None] & held_d[None, :],
    )
    if PARTS > 1:
        # Where nothing was seen, largest says so.
        counted = tl.log2(tl.where(total == 0.0, 1.0, total))
        tl.store(sums + at_row, largest + counted, mask=live)


@triton.jit
def merge_kernel(
    parts: tl.tensor,
    sums: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    PARTS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """``out [rows, DIM]``: parts ``[PARTS, rows, DIM]`` weighted by the sums ``[PARTS, rows]``."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < rows
    d = tl.arange(0, WIDTH)
    inside = live[:, None] & (d < DIM)[None, :]
    largest = tl.full([ROWS], _NEVER, tl.float32)
    for part in range(PARTS):
        found = tl.load(sums + part * rows + row, mask=live, other=_NEVER)
        largest = tl.maximum(largest, found)
    base = tl.where(largest == _NEVER, 0.0, largest)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, WIDTH], tl.float32)
    for part in range(PARTS):
        at = part * rows + row
        weight = tl.exp2(tl.load(sums + at, mask=live, other=_NEVER) - base)
        total += weight
        mixed += weight[:, None] * tl.load(
            parts + at[:, None] * DIM + d[None, :], mask=inside, other=0.0
        )
    mixed /= tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out + row[:, None] * DIM + d[None, :], mixed.to(out.dtype.element_ty), mask=inside)
