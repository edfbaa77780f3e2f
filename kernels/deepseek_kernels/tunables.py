"""What the tuner can tune: kernels, the shapes that benchmarks use, and the work that is timed.

Why it exists: every kernel is timed as it is used, on memory that no cache holds, beside the dense
product that it replaces; only what that means differs. The search, the files and the clock are
``tuning``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.functional import conv3d as dense_conv3d
from torch.nn.functional import linear as dense_linear

from deepseek_kernels.configuration import KernelConfig
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import (
    conv3d,
    dequantize,
    fp8_block,
    fp8_row,
    sparse_gemv,
    w4a16,
    w8a8,
    w8a16,
)
from deepseek_kernels.quantize import quantize_weight

__all__ = ["KERNELS", "SHAPES", "Tunable", "Work"]

Shapes = tuple[tuple[int, int], ...]
SHAPES: Mapping[str, Shapes] = {
    "llama-8b": ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)),
    "square": ((8192, 8192),),
    "bert-base": ((2304, 768), (3072, 768)),
}
"""N and K of the weights that benchmarks use."""
VOLUMES: Mapping[str, Shapes] = {
    "unet-3d": ((64**3, 32 * 27), (32**3, 64 * 27), (16**3, 128 * 27)),
}
"""Positions and products of each for windows of 3 x 3 x 3; M is the number of channels made."""
_OVERFLOW = 256 << 20
"""Bytes that no GPU's cache holds."""
_HALF = 0.6745
"""Half of the magnitudes of a bell curve are below it: as sparse as activations are cut."""

Steps = Mapping[str, Sequence[int]]
Calls = list[Callable[[], object]]
"""The same work on different memory."""
Launch = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Work:
    """One shape of a kernel, ready to be timed."""

    calls: Callable[[KernelConfig], Calls]
    dense: Calls
    """The product that torch computes instead."""
    conversions: Calls
    """Making the dense weight; empty where there is nothing to convert."""


@dataclass(frozen=True, slots=True)
class Tunable:
    """A kernel that can be tuned."""

    prepare: Callable[[int, int, int, torch.device], Work]
    """From M, N, K and the device."""
    tokens: tuple[int, ...]
    """The M that are tuned unless others are asked for."""
    limits: tuple[int, int]
    """The least and the largest M that this kernel computes."""
    steps: Steps
    """Values to try for each field of a configuration."""
    shapes: Mapping[str, Shapes] = field(default_factory=lambda: SHAPES)


def _quantized(launch: Launch, **options: Any) -> Callable[[int, int, int, torch.device], Work]:
    def prepare(m: int, n: int, k: int, device: torch.device) -> Work:
        draw = torch.Generator().manual_seed(n + k)
        values = torch.randn(n, k, generator=draw) / k**0.5
        x = torch.randn(m, k, generator=draw).to(device, torch.bfloat16)
        weight = quantize_weight(values, **options)
        weight = (weight.tiled() if weight.scheme == "int4" else weight).to(device)
        weights = [replace(weight, data=copy) for copy in _copies(weight.data)]
        dense = _copies(values.to(device, torch.bfloat16))
        return Work(
            lambda config: [_call(launch, x, one, config=config) for one in weights],
            [_call(dense_linear, x, one) for one in dense],
            [_call(dequantize.launch, one, torch.bfloat16) for one in weights],
        )

    return prepare


def _sparse(m: int, n: int, k: int, device: torch.device) -> Work:
    draw = torch.Generator().manual_seed(n + k)
    values = torch.randn(n, k, generator=draw) / k**0.5
    x = torch.randn(m, k, generator=draw).to(device, torch.bfloat16)
    dense = _copies(values.to(device, torch.bfloat16))
    weights = [sparse_gemv.k_major(one) for one in dense]
    return Work(
        lambda config: [_call(sparse_gemv.launch, x, one, _HALF, config) for one in weights],
        [_call(dense_linear, x, one) for one in dense],
        [],
    )


def _volume(m: int, n: int, k: int, device: torch.device) -> Work:
    side, channels = round(n ** (1 / 3)), k // 27
    if side**3 != n or channels * 27 != k:
        raise KernelArgumentError(
            f"n, k: {n} positions of {k} products are no cube of windows of 3 x 3 x 3; "
            "give a third power and a multiple of 27"
        )
    draw = torch.Generator().manual_seed(n + k)
    x = torch.randn(1, channels, side, side, side, generator=draw).to(device, torch.float16)
    weight = (torch.randn(m, channels, 3, 3, 3, generator=draw) / k**0.5).to(device, x.dtype)
    settings = [1, 1, 1, 1, 1, 1, 1, 1, 1]
    volumes = _copies(x, at_most=16)  # of both the volume is what fills caches
    return Work(
        lambda config: [
            _call(conv3d.launch, one, weight, None, settings, False, config) for one in volumes
        ],
        [_call(dense_conv3d, one, weight, None, 1, 1) for one in volumes],
        [],
    )


def _copies(tensor: torch.Tensor, *, at_most: int = 64) -> list[torch.Tensor]:
    """As many copies as overflow the cache together; of small tensors, which never do, a few."""
    count = min(at_most, max(1, _OVERFLOW // tensor.nbytes))
    return [tensor.clone() for _ in range(count)]


def _call(function: Callable[..., object], *args: Any, **kwargs: Any) -> Callable[[], object]:
    return lambda: function(*args, **kwargs)


_GEMV: Steps = {
    "block_n": (2, 4, 8, 16),
    "block_k": (256, 512, 1024, 2048),
    "split_k": (1, 2, 4, 8),
    "num_warps": (2, 4, 8),
}
_SMALL: Steps = {
    "block_m": (16, 32, 64),
    "block_n": (64, 128),
    "block_k": (64, 128, 256, 512),
    "split_k": (1, 2, 4, 8),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
}
_LARGE: Steps = {
    "block_m": (64, 128, 256),
    "block_n": (64, 128, 256),
    "block_k": (64, 128, 256),
    "group_m": (4, 8, 16),
    "num_warps": (4, 8),
    "num_stages": (3, 4, 5),
}
_SPARSE: Steps = {
    "block_n": (64, 128, 256, 512),
    "block_k": (16, 32, 64, 128),
    "split_k": (1, 2, 4, 8, 16),
    "num_warps": (2, 4, 8),
    "num_stages": (2, 3, 4),
}
_VOLUME: Steps = {
    "block_m": (16, 32, 64, 128),
    "block_n": (32, 64, 128, 256),
    "block_k": (16, 32, 64),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4),
}
_FEW, _SOME, _MANY = (1, 2, 4, 8), (16, 32, 64), (128, 256, 1024, 4096)
_ALL = (1, 1 << 20)

KERNELS: dict[str, Tunable] = {
    "w4a16_gemv": Tunable(
        _quantized(w4a16.launch, scheme="int4", group_size=128), _FEW, (1, 8), _GEMV
    ),
    "w4a16_gemm": Tunable(
        _quantized(w4a16.launch, scheme="int4", group_size=128), _SOME, (9, 1 << 20), _SMALL
    ),
    "w8a16_gemv": Tunable(_quantized(w8a16.launch, scheme="int8"), _FEW, (1, 8), _GEMV),
    "w8a16_gemm": Tunable(_quantized(w8a16.launch, scheme="int8"), _SOME, (9, 1 << 20), _SMALL),
    "w8a8": Tunable(_quantized(w8a8.launch, scheme="int8"), _MANY, _ALL, _LARGE),
    "fp8_row": Tunable(_quantized(fp8_row.launch, scheme="fp8"), _MANY, _ALL, _LARGE),
    "fp8_block": Tunable(_quantized(fp8_block.launch, scheme="fp8-block"), _MANY, _ALL, _LARGE),
    "sparse_gemv": Tunable(_sparse, (1, 4, 16), (1, sparse_gemv.MAX_ROWS), _SPARSE),
    "conv3d": Tunable(_volume, (32, 64, 128), _ALL, _VOLUME, VOLUMES),
}
