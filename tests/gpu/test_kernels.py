"""Every operation on a GPU against the same operation on the processor, which is the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ROWS = (1, 7, 64, 257)
WIDTHS = (64, 100, 768, 4096)
TYPES = ("float16", "bfloat16", "float32")
LIMITS = {"float16": 2e-3, "bfloat16": 1e-2, "float32": 1e-5}
"""Relative error in the Frobenius norm."""


def random(*shape: int, dtype: str, seed: int = 0) -> Any:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(getattr(torch, dtype))


def error(given: Any, wanted: Any) -> float:
    wide = wanted.double().cpu()
    return float((given.double().cpu() - wide).norm() / wide.norm().clamp_min(1e-30))


def to_gpu(value: Any) -> Any:
    return value.cuda() if hasattr(value, "cuda") else value


def both(function: Callable[..., Any], *given: Any, **options: Any) -> tuple[Any, Any]:
    """Results on the GPU and on the processor."""
    moved = {name: to_gpu(value) for name, value in options.items()}
    return function(*map(to_gpu, given), **moved), function(*given, **options)


def dequantized(pair: Any) -> Any:
    values, scales = pair[0], pair[1]
    return values.float() * scales.reshape(*values.shape[:-1], 1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_quantize(rows: int, width: int, dtype: str, kind: str) -> None:
    from deepseek_kernels.ops.norm_quantize import norm_quantize

    x, weight = random(rows, width, dtype=dtype), random(width, dtype=dtype, seed=1)
    given, wanted = both(norm_quantize, x, weight, kind=kind)
    # Values next to the border of a rounding step may fall to either side of it.
    assert error(dequantized(given), dequantized(wanted)) < 5e-3
    assert error(given[1], wanted[1]) < LIMITS[dtype]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_silu_mul_quantize(rows: int, width: int, dtype: str) -> None:
    import torch
    from deepseek_kernels.ops.silu_mul_quantize import silu_mul_quantize

    gate, up = (random(rows, width, dtype=dtype, seed=seed) for seed in (0, 1))
    given, wanted = both(silu_mul_quantize, gate, up, torch.int8)
    assert error(dequantized(given), dequantized(wanted)) < 5e-3


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("approximate", ["exact", "tanh"])
def test_bias_gelu(dtype: str, approximate: str) -> None:
    from deepseek_kernels.ops.bias_gelu import bias_gelu

    x, bias = random(33, 770, dtype=dtype), random(770, dtype=dtype, seed=1)
    given, wanted = both(bias_gelu, x, bias, approximate=approximate)
    assert error(given, wanted) < LIMITS[dtype]


@pytest.mark.parametrize("shape", [(64, 64), (65, 130), (1, 1), (3, 100, 70)], ids=str)
def test_block_quantize_is_exact(shape: tuple[int, ...]) -> None:
    from deepseek_kernels.ops.block_quantize import block_quantize

    given, wanted = both(block_quantize, random(*shape, dtype="float32"))
    assert (given.values.cpu() == wanted.values).all()
    assert error(given.scales, wanted.scales) < 1e-6


@pytest.mark.parametrize("dtype", TYPES)
def test_pruning_is_exact(dtype: str) -> None:
    from deepseek_kernels.ops.pruning import dynamic_pruning
    from deepseek_kernels.ops.semi_structured import prune_2_4

    weight = random(70, 132, dtype=dtype)
    (given, part), (wanted, other) = both(dynamic_pruning, weight, 0.5)
    assert (given.cpu() == wanted).all()
    assert part == other
    given, wanted = both(prune_2_4, weight)
    assert (given.cpu() == wanted).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_sparse_gemv(dtype: str, rows: int, threshold: float) -> None:
    from deepseek_kernels.ops.sparse_gemv import k_major, sparse_gemv

    x, weight = random(rows, 1000, dtype=dtype), random(333, 1000, dtype=dtype, seed=1)
    given, wanted = both(sparse_gemv, x, k_major(weight), threshold)
    assert error(given, wanted) < LIMITS[dtype]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_convolutions(dtype: str) -> None:
    from deepseek_kernels.ops.conv3d import conv3d
    from deepseek_kernels.ops.folded_conv import folded_conv2d

    x, weight = random(2, 5, 9, 8, 7, dtype=dtype), random(6, 5, 3, 3, 3, dtype=dtype, seed=1)
    given, wanted = both(conv3d, x, weight, random(6, dtype=dtype, seed=2), padding=1, relu=True)
    assert error(given, wanted) < 5 * LIMITS[dtype]
    x, weight = random(2, 5, 17, 15, dtype=dtype), random(6, 5, 3, 3, dtype=dtype, seed=1)
    given, wanted = both(folded_conv2d, x, weight, random(6, dtype=dtype, seed=2), padding=1)
    # cuDNN may compute fp32 products in TF32.
    assert error(given, wanted) < max(5 * LIMITS[dtype], 2e-3)


@pytest.mark.parametrize(
    ("scheme", "activations", "limit"),
    [
        ("int4", "none", 4e-3),
        ("int8", "none", 1e-2),
        ("int8", "int8", 2e-2),
        ("fp8", "fp8", 4e-2),
        ("fp8-block", "fp8", 4e-2),
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [0, 1, 3, 8, 33, 64, 256, 1000])
@pytest.mark.parametrize("shape", [(256, 128), (768, 3072), (1000, 4096)], ids=str)
def test_linear(
    scheme: Any, activations: Any, limit: float, rows: int, shape: tuple[int, int]
) -> None:
    import torch
    from deepseek_kernels.quantize import quantize_weight

    dispatch = pytest.importorskip("deepseek_kernels.dispatch", reason="no dispatcher yet")
    n, k = shape
    weight = quantize_weight(
        random(n, k, dtype="float32") * k**-0.5, scheme, group_size=128 if scheme == "int4" else 0
    )
    dtype = "float16" if scheme == "int4" else "bfloat16"
    x, bias = random(rows, k, dtype=dtype, seed=1), random(n, dtype=dtype, seed=2)
    given = dispatch.linear(x.cuda(), weight.to("cuda"), bias.cuda(), activations=activations)
    wanted = x.double() @ weight.dequantize(torch.float32).double().t() + bias.double()
    assert given.shape == (rows, n)
    assert rows == 0 or error(given, wanted) < limit
