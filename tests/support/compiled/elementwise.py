"""Rows of the compile gate for elementwise, sparsity, block and convolution kernels.

Each kernel with the types it is meant for, and with the widest rows that it takes, where registers
would run out first.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from deepseek_kernels.configuration import load_table
from deepseek_kernels.ops import (
    norm_quantize,
    pruning,
    semi_structured,
    silu_mul_quantize,
)
from deepseek_kernels.ops.elementwise import LIMITS, row_tile, tile

from tests.support.kernel_gate import TENSOR_CORES, Row

OPS = "deepseek_kernels.ops"
FP8 = (89, 90, 100)
OUTPUTS = {
    "i8": {"QUANTIZE": True, "IS_INT8": True, "LIMIT": LIMITS[torch.int8]},
    "fp8e4nv": {"QUANTIZE": True, "IS_INT8": False, "LIMIT": LIMITS[torch.float8_e4m3fn]},
    "bf16": {"QUANTIZE": False, "IS_INT8": False, "LIMIT": 0.0},
}


def rows_of_norm() -> Iterator[Row]:
    """Narrow and wide norms, with and without what is optional."""
    cases = (
        ("layer", 768, "i8"),
        ("rms", 768, "fp8e4nv"),
        ("layer", norm_quantize.MAX_WIDTH, "i8"),
        ("layer", norm_quantize.MAX_WIDTH, "fp8e4nv"),
        ("rms", 4096, "bf16"),
        ("layer", norm_quantize.MAX_WIDTH, "bf16"),
    )
    for kind, width, output in cases:
        rows, columns, warps = row_tile(width)
        full = kind == "layer"
        yield Row(
            name=f"norm_quantize {kind} {width} {output}",
            kernel=f"{OPS}.norm_quantize:_kernel",
            signature={
                **dict.fromkeys(("x_ptr", "residual_ptr", "sum_ptr"), "*bf16"),
                **dict.fromkeys(("weight_ptr", "bias_ptr"), "*bf16"),
                "values_ptr": f"*{output}",
                "scales_ptr": "*fp32",
                "rows": "i32",
                "width": "i32",
                "eps": "fp32",
            },
            constants=OUTPUTS[output]
            | {"RMS": not full, "HAS_RESIDUAL": full, "HAS_BIAS": full}
            | {"UNIT_OFFSET": not full, "ROWS": rows, "COLUMNS": columns},
            divisible=("width",),
            warps=warps,
            architectures=FP8 if output == "fp8e4nv" else (80, 90, 100),
        )


def rows_of_silu() -> Iterator[Row]:
    """Gated activations, narrow and wide."""
    widest = silu_mul_quantize.MAX_WIDTH
    cases = (
        (768, "fp8e4nv", "silu"),
        (widest, "i8", "silu"),
        (widest, "fp8e4nv", "silu"),
        (14336, "bf16", "silu"),
        (widest, "bf16", "gelu"),
        (2048, "bf16", "gelu-tanh"),
    )
    for width, output, activation in cases:
        rows, columns, warps = row_tile(width)
        yield Row(
            name=f"silu_mul_quantize {width} {output} {activation}",
            kernel=f"{OPS}.silu_mul_quantize:_kernel",
            signature={
                "gate_ptr": "*bf16",
                "up_ptr": "*bf16",
                "values_ptr": f"*{output}",
                "scales_ptr": "*fp32",
                **dict.fromkeys(("rows", "width", "gate_stride", "up_stride"), "i32"),
            },
            constants=OUTPUTS[output]
            | {"ROWS": rows, "COLUMNS": columns}
            | {"ACTIVATION": silu_mul_quantize.ACTIVATIONS.index(activation)},
            divisible=("width", "gate_stride", "up_stride"),
            warps=warps,
            architectures=FP8 if output == "fp8e4nv" else (80, 90, 100),
        )


def rows_of_elementwise() -> Iterator[Row]:
    """Epilogues, pruning, blocks."""
    wide, narrow = (
        dict(zip(("ROWS", "COLUMNS"), tile(width), strict=True)) for width in (3072, 49)
    )
    for approximate in ("exact", "tanh"):
        yield Row(
            name=f"bias_gelu {approximate}",
            kernel=f"{OPS}.bias_gelu:_kernel",
            signature={"x_ptr": "*bf16", "bias_ptr": "*bf16", "y_ptr": "*bf16"}
            | {"rows": "i32", "width": "i32"},
            constants=wide | {"HAS_BIAS": True, "TANH": approximate == "tanh"},
            divisible=("width",),
        )
    for name, shape, channels_last in (("channels last", wide, True), ("planes", narrow, False)):
        yield Row(
            name=f"conv_epilogue {name}",
            kernel=f"{OPS}.folded_conv:_kernel",
            signature=dict.fromkeys(("x_ptr", "bias_ptr", "residual_ptr", "y_ptr"), "*fp16")
            | {"rows": "i32", "width": "i32", "channels": "i32"},
            constants=shape | {"CHANNELS_LAST": channels_last, "HAS_RESIDUAL": True, "RELU": True},
            divisible=("width",) if channels_last else (),
        )
    for block_size, tile_size, warps in ((64, 64, 4), (100, 128, 8)):
        yield Row(
            name=f"block_quantize {block_size}",
            kernel=f"{OPS}.block_quantize:_kernel",
            signature={"x_ptr": "*fp32", "values_ptr": "*i8", "scales_ptr": "*fp32"}
            | dict.fromkeys(("rows", "columns", "blocks", "across"), "i32")
            | {"stride_batch": "i32", "stride_row": "i32"},
            constants={"BLOCK_SIZE": block_size, "TILE": tile_size, "stride_column": 1},
            divisible=("columns", "stride_batch", "stride_row"),
            warps=warps,
        )
    yield Row(
        name="threshold_prune",
        kernel=f"{OPS}.pruning:_kernel",
        signature={"w_ptr": "*bf16", "pruned_ptr": "*bf16", "counts_ptr": "*i32"}
        | {"count": "i32", "threshold": "fp32"},
        constants={"BLOCK": pruning._BLOCK},
        divisible=("count",),
    )
    yield Row(
        name="prune_2_4",
        kernel=f"{OPS}.semi_structured:_kernel",
        signature={"w_ptr": "*fp16", "pruned_ptr": "*fp16", "groups": "i32"},
        constants={"BLOCK": semi_structured._BLOCK},
    )


def rows_of_sparse_gemv() -> Iterator[Row]:
    """One row by sums, several by tensor cores."""
    config = load_table("default").config("sparse_gemv", 1, 4096, 4096)
    for rows in (1, 16):
        yield Row(
            name=f"sparse_gemv {rows}",
            kernel=f"{OPS}.sparse_gemv:_kernel",
            signature={"x_ptr": "*fp16", "w_ptr": "*fp16", "partial_ptr": "*fp32"}
            | dict.fromkeys(("rows", "K", "N", "blocks_k"), "i32")
            | {"threshold": "fp32"},
            constants={
                "ROWS": rows,
                "BLOCK_K": config.block_k,
                "BLOCK_N": config.block_n,
            },
            divisible=("K", "N"),
            warps=config.num_warps,
            stages=config.num_stages,
            # 16 rows are too few for Hopper's own instruction.
            instructions={} if rows == 1 else dict.fromkeys((80, 90), "HMMA"),
        )


def rows_of_conv3d() -> Iterator[Row]:
    """The windows of a 3D-UNet."""
    config = load_table("default").config("conv3d", 64, 4096, 1728)
    for window, dtype in ((1, "bf16"), (2, "fp16"), (3, "fp16")):
        sizes = ("depth", "height", "width", "out_height", "out_width", "positions")
        steps = [f"{kind}_{axis}" for kind in ("stride", "pad") for axis in "dhw"]
        yield Row(
            name=f"conv3d {window}x{window}x{window} {dtype}",
            kernel=f"{OPS}.conv3d:_kernel",
            signature=dict.fromkeys(("x_ptr", "w_ptr", "bias_ptr", "y_ptr"), f"*{dtype}")
            | dict.fromkeys(("channels_in", "channels_out", *sizes, *steps), "i32"),
            constants=dict.fromkeys(("KD", "KH", "KW"), window)
            | dict.fromkeys(("DIL_D", "DIL_H", "DIL_W"), 1)
            | {"HAS_BIAS": True, "RELU": True}
            | {"BLOCK_C": config.block_m, "BLOCK_P": config.block_n, "BLOCK_K": config.block_k},
            divisible=("channels_in", "channels_out", "positions"),
            warps=config.num_warps,
            stages=config.num_stages,
            instructions={80: "HMMA", **TENSOR_CORES},
        )


ROWS = [
    *rows_of_norm(),
    *rows_of_silu(),
    *rows_of_elementwise(),
    *rows_of_sparse_gemv(),
    *rows_of_conv3d(),
]
