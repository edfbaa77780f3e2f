"""Activations of 16 (or 32) bits times int4 weights: ``y = x W^T + bias``, optionally GELU.

Shapes: ``x [M, K]`` float16, bfloat16 or float32; weights int4 of ``QuantizedWeight`` ``[N, K]``
with a scale for each group of 32, 64 or a multiple of 128 input features, or for the whole row;
``bias [N]`` any float; ``y [M, N]`` in x's dtype. Sums are in float32.

Two kernels. Up to 8 tokens the product is a stream of weights through the processors: a word is
read once, its eight values become float32 by placing four bits into the mantissa of 2^23, and each
token's products are added in registers, without tensor cores. From 9 to 64 tokens weights are
scaled to x's dtype and multiplied by tensor cores with the weights as the left operand, which
Hopper reads from registers: dequantized weights never pass through shared memory.

Both read words as checkpoints have them and as ``tiled()`` orders them. With tiles what a thread
takes out of neighbouring words is neighbouring along K, so activations are read in whole vectors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from deepseek_kernels.configuration import KernelConfig, config_for
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.common import (
    add_parts,
    check_operands,
    device_of,
    finish,
    processors,
    reference_linear,
)
from deepseek_kernels.packing import PER_WORD, TILE
from deepseek_kernels.weights import Layout, QuantizedWeight

__all__ = [
    "GEMV_MAX_M",
    "gemm_kernel",
    "gemv_kernel",
    "gemv_max_m",
    "launch",
    "reference",
    "supports",
    "w4a16",
]

GEMV_MAX_M = 8
_DOT_K = 16
"""Least K of a product on tensor cores."""


@triton.jit
def gemv_kernel(
    x: tl.tensor,
    words: tl.tensor,
    scale: tl.tensor,
    zero_point: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    W: tl.tensor,
    GROUPS: tl.tensor,
    stride_x: tl.tensor,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    TILED: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """One program: BLOCK_N rows of weights, all tokens, every PARTS-th step of BLOCKS blocks.

    A block is LANES words; its values span ``8 LANES`` of K and one or more groups.
    """
    SPAN: tl.constexpr = LANES * 8
    HALVES: tl.constexpr = SPAN // GROUP if SPAN > GROUP else 1
    PLANES: tl.constexpr = 8 // HALVES
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None, None, None]
    # Four neighbouring words are one 16-byte load; they are added up before anything else.
    quads = tl.arange(0, LANES // 4)[None, None, :, None]
    lanes = quads * 4 + tl.arange(0, 4)[None, None, None, :]
    sums = (tl.zeros([BLOCK_N, BLOCKS, LANES // 4], tl.float32),) * BLOCK_M
    for start in range(tl.program_id(1) * BLOCKS, tl.cdiv(K, SPAN), BLOCKS * PARTS):
        blocks = start + tl.arange(0, BLOCKS)[None, :, None, None]
        at = blocks * LANES + lanes
        word = tl.load(words + rows * W + at, mask=(rows < N) & (at < W), other=0)
        for half in tl.static_range(HALVES):
            group = (blocks * SPAN + half * GROUP) // GROUP
            known = (rows < N) & (group < GROUPS)
            step = tl.load(scale + rows * GROUPS + group, mask=known, other=0.0)
            offset = tl.full([BLOCK_N, BLOCKS, 1, 1], 8388616.0, tl.float32)  # 2^23 + 8
            if HAS_ZERO:
                zeros = tl.load(zero_point + rows * GROUPS + group, mask=known, other=0)
                offset += zeros.to(tl.float32)
            products = (tl.zeros([BLOCK_N, BLOCKS, LANES // 4, 4], tl.float32),) * BLOCK_M
            for index in tl.static_range(PLANES):
                plane = half * PLANES + index
                k = blocks * SPAN + plane * LANES + lanes if TILED else at * 8 + plane
                bits = ((word >> (4 * plane)) & 15) | 0x4B000000  # 2^23 + the stored four bits
                value = bits.to(tl.float32, bitcast=True) - offset
                longer: tl.tensor = ()
                for m in tl.static_range(BLOCK_M):
                    row = tl.minimum(m, M - 1)  # what is past the last token is not stored
                    token = tl.load(x + row * stride_x + k, mask=k < K, other=0.0)
                    wide = tl.broadcast_to(token.to(tl.float32), value.shape)
                    longer = longer + (tl.fma(wide, value, products[m]),)
                products = longer
            added: tl.tensor = ()
            for m in tl.static_range(BLOCK_M):
                scaled = tl.sum(products[m], 3) * tl.reshape(step, [BLOCK_N, BLOCKS, 1])
                added = added + (sums[m] + scaled,)
            sums = added
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    for m in tl.static_range(BLOCK_M):
        mask = columns < N * (m < M).to(tl.int32)
        total = tl.sum(tl.sum(sums[m], 2), 1)
        if PARTS == 1:
            total = finish(total, bias + columns, mask, HAS_BIAS, GELU)
        to = out + (tl.program_id(1).to(tl.int64) * M + m) * N + columns
        tl.store(to, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _spread(of_blocks: tl.tensor, LANES: tl.constexpr) -> tl.tensor:
    """Repeat ``[N, BLOCKS]`` for each lane: ``[N, BLOCKS * LANES]``."""
    shape: tl.constexpr = [of_blocks.shape[0], of_blocks.shape[1], LANES]
    return tl.reshape(tl.broadcast_to(of_blocks[:, :, None], shape), [shape[0], shape[1] * LANES])


@triton.jit
def gemm_kernel(
    x: tl.tensor,
    words: tl.tensor,
    scale: tl.tensor,
    zero_point: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    W: tl.tensor,
    GROUPS: tl.tensor,
    stride_x: tl.tensor,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    TILED: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """One program: a tile of the transposed product, every PARTS-th step of K."""
    SPAN: tl.constexpr = LANES * 8
    HALVES: tl.constexpr = SPAN // GROUP if SPAN > GROUP else 1
    PLANES: tl.constexpr = 8 // HALVES
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    tokens = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    lane = tl.arange(0, BLOCKS * LANES)
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(tl.program_id(1) * BLOCKS, tl.cdiv(K, SPAN), BLOCKS * PARTS):
        at = start * LANES + lane
        word = tl.load(words + rows * W + at[None, :], mask=(rows < N) & (at < W)[None, :], other=0)
        block = start + lane // LANES
        blocks = start + tl.arange(0, BLOCKS)[None, :]
        for half in tl.static_range(HALVES):
            group = (blocks * SPAN + half * GROUP) // GROUP
            known = (rows < N) & (group < GROUPS)
            step = tl.load(scale + rows * GROUPS + group, mask=known, other=0.0)
            steps = _spread(step, LANES)
            if HAS_ZERO:
                zeros = tl.load(zero_point + rows * GROUPS + group, mask=known, other=0)
                offsets = _spread(8 + zeros.to(tl.int32), LANES)
            for index in tl.static_range(PLANES):
                plane = half * PLANES + index
                k = block * SPAN + plane * LANES + lane % LANES if TILED else at * 8 + plane
                token = tl.load(
                    x + tokens * stride_x + k[:, None],
                    mask=(tokens < M) & (k < K)[:, None],
                    other=0.0,
                )
                stored = (word >> (4 * plane)) & 15
                value = (stored - offsets if HAS_ZERO else stored - 8).to(tl.float32) * steps
                total = tl.dot(value.to(x.dtype.element_ty), token, total, input_precision="ieee")
    mask = (rows < N) & (tokens < M)
    if PARTS == 1:
        total = finish(total, bias + rows, rows < N, HAS_BIAS, GELU)
    to = out + (tl.program_id(1).to(tl.int64) * M + tokens) * N + rows
    tl.store(to, total.to(out.dtype.element_ty), mask=mask)


def launch(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    config: KernelConfig | None = None,
    gemv: bool | None = None,
) -> torch.Tensor:
    """Run a Triton kernel wherever the tensors are.

    Args:
        x: ``[M, K]``; rows may lie apart.
        weight: int4 ``[N, K]``.
        bias: ``[N]``.
        gelu: apply GELU (with the error function) at the end.
        config: tile sizes; None looks them up for the device and shape.
        gemv: which kernel; None takes the GEMV up to ``gemv_max_m(weight)`` tokens.

    Raises:
        KernelArgumentError: a wrong argument, or a group size that the kernels do not know.
    """
    N, K = weight.shape
    group, lanes = _require_int4(weight), _lanes(weight)
    x = check_operands(x, weight, bias)
    M = x.shape[0]
    if M == 0:
        return x.new_empty(0, N)
    by_hand = gemv_max_m(weight) >= M if gemv is None else gemv
    if by_hand and M > GEMV_MAX_M:
        raise KernelArgumentError(f"x: M={M} is too much for the GEMV; give {GEMV_MAX_M} at most")
    name = "w4a16_gemv" if by_hand else "w4a16_gemm"
    config = config or config_for(name, M, N, K, x.device)
    blocks = max(1 if by_hand else _DOT_K // lanes, config.block_k // (lanes * PER_WORD))
    block_m = triton.next_power_of_2(M) if by_hand else config.block_m
    tiles = triton.cdiv(N, config.block_n) * triton.cdiv(M, block_m)
    steps = triton.cdiv(K, blocks * lanes * PER_WORD)
    parts = config.parts(tiles, steps, processors(x.device))
    out = x.new_empty(M, N)
    to = out if parts == 1 else x.new_empty(parts, M, N, dtype=torch.float32)
    kernel = gemv_kernel if by_hand else gemm_kernel
    with device_of(x):
        kernel[(triton.cdiv(N, config.block_n), parts, 1 if by_hand else triton.cdiv(M, block_m))](
            x,
            weight.data,
            weight.scale,
            weight.scale if weight.zero_point is None else weight.zero_point,
            x if bias is None else bias,
            to,
            M,
            N,
            K,
            weight.data.shape[1],
            weight.scale.shape[1],
            x.stride(0),
            GROUP=group,
            LANES=lanes,
            TILED=weight.layout == "tiles",
            HAS_ZERO=weight.zero_point is not None,
            HAS_BIAS=bias is not None,
            GELU=gelu,
            PARTS=parts,
            BLOCK_M=block_m,
            BLOCK_N=config.block_n,
            BLOCKS=blocks,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
        if parts > 1:
            add_parts(to, out, bias, gelu=gelu)
    return out


def gemv_max_m(weight: QuantizedWeight) -> int:
    """Up to how many tokens the GEMV is meant for: 8, or 4 in rows.

    In rows a thread reads activations one by one, and for more tokens they do not fit in registers.
    """
    return GEMV_MAX_M if weight.layout == "tiles" else 4


def reference(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    accumulate: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The same in plain torch, in float32 (or float64, and then the result is float64)."""
    return reference_linear(
        x, weight.dequantize(accumulate), bias, gelu=gelu, accumulate=accumulate
    )


@torch.library.custom_op("deepseek::w4a16", mutates_args=(), device_types="cpu")
def w4a16(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    bias: torch.Tensor | None,
    group_size: int,
    tiled: bool,
    gelu: bool,
) -> torch.Tensor:
    """``x [M, K]`` times an int4 weight given as its tensors; see the module for shapes."""
    weight = _weight(x, data, scale, zero_point, group_size, tiled)
    return reference(check_operands(x, weight, bias), weight, bias, gelu=gelu)


@w4a16.register_kernel("cuda")
def _on_gpu(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    bias: torch.Tensor | None,
    group_size: int,
    tiled: bool,
    gelu: bool,
) -> torch.Tensor:
    weight = _weight(x, data, scale, zero_point, group_size, tiled)
    return launch(x, weight, bias, gelu=gelu)


@w4a16.register_fake
def _shape(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    bias: torch.Tensor | None,
    group_size: int,
    tiled: bool,
    gelu: bool,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], data.shape[0])


def _weight(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    group_size: int,
    tiled: bool,
) -> QuantizedWeight:
    shape = (data.shape[0], x.shape[-1])
    layout: Layout = "tiles" if tiled else "rows"
    return QuantizedWeight("int4", data, scale, shape, zero_point, group_size, layout)


def supports(weight: QuantizedWeight) -> bool:
    """Whether the kernels take this weight's groups: 32, 64, a multiple of 128, or whole rows."""
    size = weight.group_size
    return weight.scheme == "int4" and (size in (0, 32, 64) or size % TILE == 0)


def _require_int4(weight: QuantizedWeight) -> int:
    """The group size for the kernels; the whole row is larger than any K."""
    if weight.scheme != "int4":
        raise KernelArgumentError(f"weight: is {weight.scheme}; give int4")
    if not supports(weight):
        raise KernelArgumentError(
            f"weight: groups of {weight.group_size} are not supported; "
            "use 32, 64, a multiple of 128, or 0"
        )
    return weight.group_size or 1 << 30


def _lanes(weight: QuantizedWeight) -> int:
    """Words of a block: a tile's 16, or in rows those of one group."""
    small = weight.layout == "rows" and weight.group_size in (32, 64)
    return (weight.group_size if small else TILE) // PER_WORD
