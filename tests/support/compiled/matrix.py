"""Rows of the compile gate for matrix kernels: every configuration that is shipped.

Products with tensor cores have to use Hopper's own on sm_90; those for up to 8 tokens use none.
Compiling takes a second, so variants of a kernel that differ in little are compiled for sm_90 only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepseek_kernels.configuration import KernelConfig, load_table

from tests.support.kernel_gate import TENSOR_CORES, Row

OPS = "deepseek_kernels.ops"
INTEGERS = {"M": "i32", "N": "i32", "K": "i32"}
FP8 = (89, 90, 100)
ALIGNED = ("N", "K", "W", "GROUPS", "stride_x", "size")
W4 = {
    "x": "*fp16",
    "words": "*i32",
    "scale": "*fp32",
    "zero_point": "*i8",
    "bias": "*fp16",
    "out": "*fp16",
    **INTEGERS,
    "W": "i32",
    "GROUPS": "i32",
    "stride_x": "i32",
}
W8 = {
    "x": "*fp16",
    "weights": "*i8",
    "scale": "*fp32",
    "bias": "*fp16",
    "out": "*fp16",
    **INTEGERS,
    "stride_x": "i32",
}
SCALED = {
    "x": "*i8",
    "weights": "*i8",
    "x_scale": "*fp32",
    "w_scale": "*fp32",
    "bias": "*bf16",
    "out": "*bf16",
    **INTEGERS,
}
WHOLE = {"HAS_BIAS": True, "GELU": True, "PARTS": 1}
PARTLY = {"HAS_BIAS": True, "GELU": True, "PARTS": 4}
W4_KINDS: dict[str, dict[str, Any]] = {
    "g128": {"GROUP": 128, "LANES": 16, "TILED": True, "HAS_ZERO": False},
    "g64 asymmetric": {"GROUP": 64, "LANES": 16, "TILED": True, "HAS_ZERO": True},
    "g32 rows": {"GROUP": 32, "LANES": 4, "TILED": False, "HAS_ZERO": True},
}


def configs(kernel: str) -> Iterator[tuple[str, int, KernelConfig, bool]]:
    """Every shipped configuration of a kernel: name, largest M, tiles, whether for Hopper alone."""
    usual = [config for _, config in load_table("default").kernels[kernel]]
    for gpu in ("default", "h100"):
        for max_m, config in load_table(gpu).kernels[kernel]:
            if gpu == "default" or config not in usual:
                yield f"{kernel} {gpu} M<={max_m}", max_m, config, gpu == "h100"


def launch_options(config: KernelConfig) -> dict[str, Any]:
    """How a row names a configuration's options."""
    return {"warps": config.num_warps, "stages": config.num_stages, "divisible": ALIGNED}


def w4a16_rows() -> Iterator[Row]:
    for kernel, tokens in (("gemv", {}), ("gemm", {"out": "*fp32"})):
        shipped = list(configs(f"w4a16_{kernel}"))
        for name, max_m, config, hopper in shipped:
            for kind, constants in W4_KINDS.items():
                main = kind == "g128"
                if not main and config != shipped[-1][2]:
                    continue
                few = max_m if constants["TILED"] else 4
                yield Row(
                    name=f"{name} {kind}",
                    kernel=f"{OPS}.w4a16:{kernel}_kernel",
                    signature=W4 | tokens | ({"x": "*bf16"} if main else {}),
                    constants={
                        **constants,
                        **(WHOLE if kernel == "gemv" else PARTLY),
                        "BLOCK_M": few if kernel == "gemv" else config.block_m,
                        "BLOCK_N": config.block_n,
                        "BLOCKS": config.block_k // (8 * constants["LANES"]),
                    },
                    architectures=(80, 90, 100) if main and not hopper else (90,),
                    instructions=TENSOR_CORES if kernel == "gemm" else {},
                    **launch_options(config),
                )


def w8a16_rows() -> Iterator[Row]:
    for values, architectures in (("*i8", (80, 90, 100)), ("*fp8e4nv", FP8)):
        for kernel in ("gemv", "gemm"):
            shipped = list(configs(f"w8a16_{kernel}"))
            for name, max_m, config, hopper in shipped if values == "*i8" else shipped[-1:]:
                sizes = (
                    {"BLOCK_M": max_m, "VECTORS": config.block_k // 16}
                    if kernel == "gemv"
                    else {"BLOCK_M": config.block_m, "BLOCK_K": config.block_k}
                )
                yield Row(
                    name=f"{name} {values[1:]}",
                    kernel=f"{OPS}.w8a16:{kernel}_kernel",
                    signature=W8 | {"weights": values, "x": "*bf16"},
                    constants={**WHOLE, **sizes, "BLOCK_N": config.block_n},
                    architectures=(90,) if hopper else architectures,
                    instructions=TENSOR_CORES if kernel == "gemm" else {},
                    **launch_options(config),
                )


def scaled_rows() -> Iterator[Row]:
    fp8 = {"x": "*fp8e4nv", "weights": "*fp8e4nv"}
    ending = {"HAS_BIAS": True, "GELU": True}
    for kernel, types, architectures, pattern in (
        ("w8a8", {}, (80, 90, 100), "IGMMA"),
        ("fp8_row", fp8, FP8, "QGMMA"),
    ):
        for name, _, config, hopper in configs(kernel):
            sizes = {"BLOCK_M": config.block_m, "BLOCK_N": config.block_n}
            yield Row(
                name=name,
                kernel=f"{OPS}.scaled_product:product_kernel",
                signature=SCALED | types,
                constants={
                    **ending,
                    **sizes,
                    "INTEGER": not types,
                    "FAST": False,
                    "BLOCK_K": config.block_k,
                    "GROUP_M": config.group_m,
                },
                architectures=(90,) if hopper else architectures,
                instructions={90: pattern},
                **launch_options(config),
            )
    for name, _, config, hopper in configs("fp8_block"):
        yield Row(
            name=name,
            kernel=f"{OPS}.fp8_block:block_product_kernel",
            signature=SCALED | fp8 | {"SQUARES": "i32"},
            constants={
                **ending,
                "BLOCK_M": config.block_m,
                "BLOCK_N": config.block_n,
                "GROUP_M": config.group_m,
            },
            architectures=(90,) if hopper else FP8,
            instructions={90: "QGMMA"},
            **launch_options(config),
        )


def helper_rows() -> Iterator[Row]:
    yield Row(
        name="sum of parts",
        kernel=f"{OPS}.common:sum_parts",
        signature={"parts": "*fp32", "bias": "*bf16", "out": "*bf16", "N": "i32", "size": "i32"},
        constants={"PARTS": 4, "HAS_BIAS": True, "GELU": True, "BLOCK": 1024},
        divisible=ALIGNED,
    )
    token = {"x": "*bf16", "scales": "*fp32", "K": "i32", "stride_x": "i32"}
    for kind, values, largest, architectures in (
        ("int8", "*i8", 127.0, (80, 90, 100)),
        ("fp8", "*fp8e4nv", 448.0, FP8),
    ):
        grid = {"LARGEST": largest, "INTEGER": kind == "int8"}
        for rows, block, warps in ((16, 128, 4), (1, 8192, 8)):
            yield Row(
                name=f"quantize {kind} {rows} x {block}",
                kernel=f"{OPS}.quantize_activations:quantize_kernel",
                signature=token | {"values": values, "M": "i32", "GROUPS": "i32"},
                constants={**grid, "ROWS": rows, "BLOCK_K": block},
                divisible=("K", "stride_x"),
                warps=warps,
                architectures=architectures if block == 128 else (90,),
            )
        yield Row(
            name=f"quantize long {kind}",
            kernel=f"{OPS}.quantize_activations:quantize_long_kernel",
            signature=token | {"values": values},
            constants={**grid, "BLOCK_K": 8192},
            divisible=("K", "stride_x"),
            warps=8,
            architectures=(90,),
        )


def dequantize_rows() -> Iterator[Row]:
    for kind, data, architectures, constants in (
        ("int4", "*i32", (80, 90, 100), {"FOUR_BITS": True, "HAS_ZERO": True, "GROUP": 128}),
        ("int8", "*i8", (90,), {"FOUR_BITS": False, "HAS_ZERO": False, "GROUP": 1 << 30}),
        ("fp8-block", "*fp8e4nv", (89, 90), {"FOUR_BITS": False, "HAS_ZERO": False, "GROUP": 128}),
    ):
        yield Row(
            name=f"dequantize {kind}",
            kernel=f"{OPS}.dequantize:dequantize_kernel",
            signature={
                "data": data,
                "scale": "*fp32",
                "zero_point": "*i8",
                "out": "*bf16",
                "N": "i32",
                "K": "i32",
                "W": "i32",
                "GROUPS": "i32",
            },
            constants={
                **constants,
                "TILED": True,
                "ROWS_PER_SCALE": 128 if kind == "fp8-block" else 1,
                "BLOCK_N": 16,
                "BLOCK_K": 256,
            },
            divisible=ALIGNED,
            architectures=architectures,
        )


ROWS = [
    *w4a16_rows(),
    *w8a16_rows(),
    *scaled_rows(),
    *helper_rows(),
    *dequantize_rows(),
]
