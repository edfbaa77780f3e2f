"""Kernels that the compile gate must refuse."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def keeps_too_much(source: tl.tensor, target: tl.tensor, SIZE: tl.constexpr) -> None:
    """Hold two tiles of SIZE x SIZE in the registers of one warp."""
    rows, columns = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    tile = tl.load(source + rows * SIZE + columns)
    turned = tl.load(source + columns * SIZE + rows)
    for _ in range(4):
        tile, turned = tile * turned + turned, turned * tile - tile
    tl.store(target + rows * SIZE + columns, tile + turned)


@triton.jit
def multiplies_by_hand(source: tl.tensor, target: tl.tensor, SIZE: tl.constexpr) -> None:
    """A sum of products without tensor cores."""
    at = tl.arange(0, SIZE)
    values = tl.load(source + at)
    tl.store(target, tl.sum(values * values, 0))
