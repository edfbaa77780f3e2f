"""Rows of the compile gate for the kernels of a decoder's step: every head size, cache and tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import triton
from deepseek_kernels.configuration import KernelConfig, load_table
from deepseek_kernels.ops.rope_kernel import tile_of

from tests.support.kernel_gate import Row

OPS = "deepseek_kernels.ops"
CACHES = {"bf16": ("*bf16", 0), "fp8": ("*fp8e4nv", 1), "int8": ("*i8", 2)}
ALL, FP8 = (80, 90, 100), (89, 90, 100)
PAGE = 16


def attention_row(
    dim: int, config: KernelConfig, *, dtype: str = "bf16", cache: str = "bf16", parts: int = 8,
    group: int = 4, architectures: tuple[int, ...] = ALL, extras: bool = False,
) -> Row:  # fmt: skip
    """One tile of attention; ``extras`` are a window and a soft cap."""
    stored, kind = CACHES.get(cache, (f"*{cache}", 0))
    tensors = {
        "q": f"*{dtype}",
        "keys": stored,
        "values": stored,
        "key_scale": "*fp32" if kind else stored,
        "value_scale": "*fp32" if kind else stored,
        **dict.fromkeys(("tables", "starts", "lengths"), "*i32"),
        "out": "*fp32" if parts > 1 else f"*{dtype}",
        "sums": "*fp32" if parts > 1 else f"*{dtype}",
    }
    numbers = {"scale": "fp32", "softcap": "fp32"} | dict.fromkeys(
        ("window", "tokens", "stride_qt", "stride_qh", "stride_table"), "i32"
    )
    extra = " window, cap" if extras else ""
    rows = f"{config.block_m}x{config.block_n}"
    hopper = "HGMMA" if config.block_m >= 64 and dtype != "fp32" else None
    return Row(
        name=f"paged_attention {dtype} {cache} {dim} {rows} parts {parts}{extra}",
        kernel=f"{OPS}.paged_kernel:attention_kernel",
        signature=tensors | numbers,
        constants={"KV_HEADS": 8, "GROUP": group, "PAGE": PAGE, "DIM": dim}
        | {"WIDTH": triton.next_power_of_2(dim), "CACHE": kind, "PARTS": parts}
        | {"HAS_WINDOW": extras, "HAS_SOFTCAP": extras}
        | {"ROWS": config.block_m, "POSITIONS": config.block_n},
        divisible=("stride_qt", "stride_qh"),
        warps=config.num_warps,
        stages=config.num_stages,
        architectures=architectures,
        # 16 rows are too few for Hopper's own instruction.
        instructions={90: hopper or "HMMA"} if dtype != "fp32" else {},
    )


def rows_of_attention() -> Iterator[Row]:
    """Every shipped tile; every head size, cache and option with the tile of one token."""
    for width in (64, 128, 256):
        name = f"paged_attention_{width}"
        usual = dict.fromkeys(config for _, config in load_table("default").kernels[name])
        hopper = [c for _, c in load_table("h100").kernels[name] if c not in usual]
        for config in (*usual, *hopper):
            parts = 8 if config.block_m == 16 else 1
            everywhere = ALL if config in usual else (90,)
            yield attention_row(width, config, parts=parts, architectures=everywhere)
            for cache, wide in (("int8", ALL), ("fp8", FP8)):
                architectures = wide if width == 128 and config in usual else (90,)
                yield attention_row(
                    width, config, cache=cache, parts=parts, architectures=architectures
                )
    few = load_table("default").kernels["paged_attention_128"][0][1]
    for dim in (80, 96):
        yield attention_row(dim, few, dtype="fp16", cache="fp16", architectures=(90,))
    half = replace(few, block_n=few.block_n // 2)
    yield attention_row(128, half, dtype="fp32", cache="fp32", parts=1, architectures=(80, 90))
    yield attention_row(128, few, extras=True, architectures=(80, 90))
    large = load_table("default").kernels["paged_attention_256"][0][1]
    yield attention_row(256, large, extras=True, parts=1, architectures=(90,))


def rows_of_merge() -> Iterator[Row]:
    """Few parts and many."""
    for dim, parts in ((128, 2), (80, 64), (256, 16)):
        width = triton.next_power_of_2(dim)
        yield Row(
            name=f"paged_attention merge {dim} parts {parts}",
            kernel=f"{OPS}.paged_kernel:merge_kernel",
            signature={"parts": "*fp32", "sums": "*fp32", "out": "*bf16", "rows": "i32"},
            constants={"PARTS": parts, "DIM": dim, "WIDTH": width, "ROWS": max(1, 1024 // width)},
            architectures=ALL if dim == 128 else (90,),
        )


def rows_of_rope() -> Iterator[Row]:
    """Both orders of pairs, whole and partial rotation, all caches."""
    cases: tuple[tuple[str, int, int, bool, bool, str, tuple[int, ...]], ...] = (
        ("halves", 128, 128, False, False, "bf16", ALL),
        ("halves, norm", 128, 128, False, True, "int8", ALL),
        ("pairs", 64, 64, True, False, "fp8", FP8),
        ("partial", 80, 32, False, False, "int8", (90,)),
        ("partial pairs, norm", 256, 64, True, True, "bf16", (90,)),
        ("none", 64, 0, False, False, "bf16", (90,)),
    )
    for name, dim, rotary, interleaved, norm, cache, architectures in cases:
        stored = {"bf16": "*bf16", "fp8": "*u8", "int8": "*i8"}[cache]
        scales = stored if cache == "bf16" else "*fp32"
        tile = tile_of(dim, rotary)
        signature: dict[str, str] = {
            **dict.fromkeys(("q", "k", "v", "out", "query_norm", "key_norm"), "*bf16"),
            **dict.fromkeys(("keys", "values"), stored),
            **dict.fromkeys(("key_scale", "value_scale"), scales),
            **dict.fromkeys(("cos", "sin"), "*fp32"),
            **dict.fromkeys(("positions", "slots"), "*i64"),
            "eps": "fp32",
        }
        strides = [f"stride_{tensor}{axis}" for tensor in "qkv" for axis in "th"]
        constants: dict[str, Any] = {
            "Q_HEADS": 32, "KV_HEADS": 8, "DIM": dim, "ROTARY": rotary, "INTERLEAVED": interleaved,
            "HAS_NORM": norm, "UNIT_OFFSET": norm, "CACHE": CACHES[cache][1], "HEADS": tile.heads,
            "HALF": tile.half, "REST": tile.rest, "WIDTH": tile.width,
        }  # fmt: skip
        yield Row(
            name=f"rope_kv_write {name} {dim} {cache}",
            kernel=f"{OPS}.rope_kernel:rope_kv_write_kernel",
            signature=signature | dict.fromkeys(("table", "capacity", *strides), "i32"),
            constants=constants,
            divisible=tuple(strides),
            architectures=architectures,
        )


ROWS = [*rows_of_attention(), *rows_of_merge(), *rows_of_rope()]
