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


CACHES = ("float16", "bfloat16", "float8_e4m3fn", "int8")


def paged(case: dict[str, Any], cache_type: str) -> tuple[Any, Any, dict[str, Any]]:
    """Queries, a cache of shuffled blocks with random content, and where sequences lie in it."""
    import torch
    from deepseek_kernels.ops.paged_cache import PagedCache

    heads, size, dim = case["kv_heads"], case["block_size"], case["dim"]
    each = [-(-length // size) for length in case["contexts"]]
    dtype = getattr(torch, cache_type)
    cache = PagedCache.allocate(sum(each) + 2, size, heads, dim, dtype=dtype,
                                key_scale=0.02, value_scale=0.01)  # fmt: skip
    room = cache.blocks * size
    keys, values = (random(room, heads, dim, dtype="float32", seed=seed) for seed in (1, 2))
    cache.write(keys, values, torch.arange(room))
    order = torch.randperm(cache.blocks, generator=torch.Generator().manual_seed(3)).int()
    tables = torch.zeros(len(each), max(each), dtype=torch.int32)
    for s, count in enumerate(each):
        tables[s, :count], order = order[:count], order[count:]
    counts = torch.tensor([0, *case.get("queries", [1] * len(each))])
    q = random(int(counts.sum()), heads * case["group"], dim, dtype=case.get("dtype", "float16"))
    places = {
        "block_tables": tables,
        "query_starts": counts.cumsum(0).int(),
        "context_lengths": torch.tensor(case["contexts"], dtype=torch.int32),
        "max_query": int(counts.max()),
        "max_context": max(case["contexts"]),
    }
    return q, cache, places


def cache_to_gpu(cache: Any) -> Any:
    return type(cache)(*map(to_gpu, cache.tensors))


PAGED: dict[str, dict[str, Any]] = {
    "one": {"contexts": [1], "kv_heads": 1, "group": 1, "dim": 64, "block_size": 16},
    "llama": {"contexts": [4097, 33, 700], "kv_heads": 8, "group": 4, "dim": 128, "block_size": 16},
    "long": {"contexts": [30000], "kv_heads": 2, "group": 8, "dim": 128, "block_size": 16},
    "odd": {"contexts": [100, 7], "kv_heads": 3, "group": 5, "dim": 80, "block_size": 7},
    "guesses": {"contexts": [900, 40, 8], "queries": [5, 1, 8], "kv_heads": 4, "group": 2,
                "dim": 96, "block_size": 32},
    "wide": {"contexts": [515, 90], "kv_heads": 1, "group": 4, "dim": 256, "block_size": 16},
    "prompt": {"contexts": [700, 1100], "queries": [700, 130], "kv_heads": 2, "group": 4,
               "dim": 128, "block_size": 16},
}  # fmt: skip


@pytest.mark.parametrize("cache_type", CACHES)
@pytest.mark.parametrize("name", PAGED)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (37, None), (None, 20.0)], ids=str)
def test_paged_attention(name: str, cache_type: str, window: Any, softcap: Any) -> None:
    from deepseek_kernels.ops.paged_attention import paged_decode

    case = PAGED[name] | {"dtype": "bfloat16" if cache_type == "bfloat16" else "float16"}
    q, cache, places = paged(case, cache_type)
    moved = {key: to_gpu(value) for key, value in places.items()}
    options = {"window": window, "softcap": softcap}
    given = paged_decode(q.cuda(), cache_to_gpu(cache), **moved, **options)
    assert error(given, paged_decode(q, cache, **places, **options)) < LIMITS[case["dtype"]]


@pytest.mark.parametrize("cache_type", CACHES)
@pytest.mark.parametrize("window", [None, 100], ids=str)
def test_prompts_by_the_library(cache_type: str, window: Any) -> None:
    import torch
    from deepseek_kernels.ops.paged_prefill import obstacle, paged_prefill

    case = PAGED["prompt"] | {"dtype": "bfloat16" if cache_type == "bfloat16" else "float16"}
    q, cache, places = paged(case, cache_type)
    on_gpu = cache_to_gpu(cache)
    moved = {key: to_gpu(value) for key, value in places.items()}
    if reason := obstacle(q.cuda(), on_gpu, 2, places["max_query"], places["max_context"]):
        pytest.skip(reason)
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        given = paged_prefill(q.cuda(), on_gpu, **moved, window=window)
        torch.cuda.synchronize()
    assert error(given, paged_prefill(q, cache, **places, window=window)) < LIMITS[case["dtype"]]


@pytest.mark.parametrize("cache_type", CACHES)
def test_a_key_that_is_no_number_fails_its_sequence_only(cache_type: str) -> None:
    import torch
    from deepseek_kernels.ops.paged_attention import paged_decode

    case = PAGED["llama"] | {"dtype": "bfloat16" if cache_type == "bfloat16" else "float16"}
    q, cache, places = paged(case, cache_type)
    bad = torch.full((1, 8, 128), float("nan"))
    cache.write(bad, bad, (places["block_tables"][1, 1:2] * 16 + 3).long())
    moved = {key: to_gpu(value) for key, value in places.items()}
    given = paged_decode(q.cuda(), cache_to_gpu(cache), **moved)
    assert bool(given[1].isnan().all())
    assert bool(given[[0, 2]].isfinite().all())


def test_attention_gives_the_same_bits_and_can_be_recorded() -> None:
    import torch
    from deepseek_kernels.ops.paged_attention import paged_decode

    q, cache, places = paged(PAGED["llama"], "float16")
    q, cache = q.cuda(), cache_to_gpu(cache)
    moved = {key: to_gpu(value) for key, value in places.items()}
    wanted = paged_decode(q, cache, **moved)
    for _ in range(20):
        assert torch.equal(paged_decode(q, cache, **moved), wanted)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = paged_decode(q, cache, **moved)
    moved["context_lengths"] -= 20
    shorter = paged_decode(q, cache, **moved)
    graph.replay()
    assert torch.equal(recorded, shorter)


@pytest.mark.parametrize("cache_type", CACHES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    ("dim", "rotary", "norm"), [(128, 128, True), (80, 32, False), (256, 64, True)], ids=str
)
def test_rope_and_write(
    dim: int, rotary: int, norm: bool, interleaved: bool, cache_type: str
) -> None:
    import torch
    from deepseek_kernels.ops.paged_cache import PagedCache
    from deepseek_kernels.ops.rope_kv_write import rope_and_write

    dtype = "bfloat16" if cache_type == "bfloat16" else "float16"
    rows = {name: random(33, heads, dim, dtype=dtype, seed=heads)
            for name, heads in (("q", 12), ("k", 3), ("v", 3))}  # fmt: skip
    angles = torch.arange(500)[:, None] * 10000.0 ** -(torch.arange(0, rotary, 2) / rotary)
    slots = torch.randperm(64, generator=torch.Generator().manual_seed(1))[:33]
    slots[5] = -1
    given: dict[str, Any] = rows | {
        "positions": torch.arange(33) * 15,
        "slots": slots,
        "cos": angles.cos(),
        "sin": angles.sin(),
        "query_norm": random(dim, dtype=dtype, seed=7) if norm else None,
        "key_norm": random(dim, dtype=dtype, seed=8) if norm else None,
    }
    found = []
    for device in ("cuda", "cpu"):
        cache = PagedCache.allocate(4, 16, 3, dim, dtype=getattr(torch, cache_type), device=device,
                                    key_scale=0.02, value_scale=0.01)  # fmt: skip
        moved: dict[str, Any] = {name: value if value is None else value.to(device)
                                 for name, value in given.items()}  # fmt: skip
        q = rope_and_write(**moved, cache=cache, interleaved=interleaved)
        found.append((q, *cache.gather(torch.arange(4, device=device), torch.float32)))
    # Numbers next to the border of two stored values may fall to either side of it.
    limit = 1e-2 if cache_type in ("float8_e4m3fn", "int8") else LIMITS[dtype]
    assert error(found[0][0], found[1][0]) < LIMITS[dtype]
    assert error(found[0][1], found[1][1]) < limit
    assert error(found[0][2], found[1][2]) < limit


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("offset", [False, True])
def test_add_norm(dtype: str, offset: bool) -> None:
    from deepseek_kernels.ops.add_norm import add_norm

    x, residual = (random(33, 4096, dtype=dtype, seed=seed) for seed in (0, 1))
    weight = random(4096, dtype=dtype, seed=2)
    given, wanted = both(add_norm, x, residual, weight, unit_offset=offset)
    assert (given[1].cpu() == wanted[1]).all()
    assert error(given[0], wanted[0]) < LIMITS[dtype]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu-tanh"])
def test_gated(dtype: str, activation: str) -> None:
    from deepseek_kernels.ops.gated import gated

    gate, up = (random(33, 770, dtype=dtype, seed=seed) for seed in (0, 1))
    given, wanted = both(gated, gate, up, activation)
    assert error(given, wanted) < LIMITS[dtype]
