"""Cases of quantized linear layers, K1 to K6. Imports torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from deepseek_kernels.quantize import quantize_weight

from benchmarks.gpu import linear_peers as peers
from benchmarks.gpu.goals import (
    BERT,
    BF16,
    FP16,
    GEMLITE,
    INT_MM,
    LLAMA,
    SCALED_MM,
    SQUARE,
    TINYGEMM,
    TORCHAO,
    Shape,
)
from benchmarks.gpu.inputs import Subjects, random
from benchmarks.gpu.peers import find
from benchmarks.gpu.running import AGAIN, OWN, Case
from benchmarks.gpu.timing import Call

__all__ = ["few_rows_int4", "few_rows_int8", "fp8", "fp8_block", "int8", "some_rows_int4"]

GROUP = 128
MANY = (1024, 4096)
Linear = Callable[..., torch.Tensor]


@cache
def _linear() -> Linear:
    # Late, so that parts without it run also where it does not load.
    found: Linear = importlib.import_module("deepseek_kernels.dispatch").linear
    return found


def few_rows_int4() -> Iterator[Case]:
    """K1."""
    for rows in (1, 4, 8):
        for shape in (*LLAMA, *SQUARE, *BERT):
            yield _int4(rows, shape)


def some_rows_int4() -> Iterator[Case]:
    """K2."""
    for rows in (16, 32, 64):
        for shape in (*LLAMA, *SQUARE):
            yield _int4(rows, shape)


def _int4(rows: int, shape: Shape) -> Case:
    n, k = shape
    weights = _weights(shape, n * k // 2, torch.float16)
    quantized = [quantize_weight(w, "int4", group_size=GROUP) for w in weights]
    # As a model holds them: rearranged once for the kernels.
    tiled = [weight.tiled() for weight in quantized]
    x = random(rows, k, seed=1, dtype=torch.float16)
    dense = quantized[0].dequantize(torch.float16)
    subjects = Subjects(n * k // 2, wanted=x.double() @ dense.double().t())
    _add_own(subjects, lambda i: lambda: _linear()(x, tiled[i]), limit=4e-3)
    subjects.add(FP16, lambda i: lambda: F.linear(x, weights[i]))
    gemlite, module = find("gemlite.helper", distribution="gemlite")
    subjects.add_peer(
        GEMLITE, gemlite, lambda i: peers.gemlite_int4(module, quantized[i], x), limit=8e-3
    )
    subjects.add(TINYGEMM, lambda i: peers.tinygemm(quantized[i], x), limit=2e-2)
    bnb, nf4 = find("bitsandbytes")
    subjects.add_peer("bitsandbytes NF4", bnb, lambda i: peers.bitsandbytes_nf4(nf4, weights[i], x))
    return _case(f"M={rows}", shape, subjects, work=n * k / 2, unit="TB/s")


def few_rows_int8() -> Iterator[Case]:
    """K3."""
    for rows in (1, 8, 32):
        for shape in (*LLAMA, *SQUARE):
            yield _int8(rows, shape)


def _int8(rows: int, shape: Shape) -> Case:
    n, k = shape
    weights = _weights(shape, n * k, torch.bfloat16)
    quantized = [quantize_weight(w, "int8") for w in weights]
    x = random(rows, k, seed=1, dtype=torch.bfloat16)
    wanted = x.double() @ quantized[0].dequantize(torch.float32).double().t()
    subjects = Subjects(n * k, wanted=wanted)
    _add_own(subjects, _calls(x, quantized, activations="none"), limit=1e-2)
    subjects.add(BF16, _dense(x, weights))
    torchao, module = find("torchao.quantization", distribution="torchao")
    subjects.add_peer(
        TORCHAO,
        torchao,
        lambda i: peers.torchao(module, "Int8WeightOnlyConfig", weights[i], x),
        limit=2e-2,
    )
    gemlite, helper = find("gemlite.helper", distribution="gemlite")
    subjects.add_peer(
        GEMLITE, gemlite, lambda i: peers.gemlite(helper, "A16W8_INT8", weights[i], x), limit=2e-2
    )
    return _case(f"M={rows}", shape, subjects, work=n * k, unit="TB/s")


def int8() -> Iterator[Case]:
    """K4."""
    yield from _both_quantized("int8", "int8", "TOP/s", limit=2e-2)


def fp8() -> Iterator[Case]:
    """K5."""
    yield from _both_quantized("fp8", "fp8", "TFLOP/s", limit=4e-2)


def fp8_block() -> Iterator[Case]:
    """K6."""
    yield from _both_quantized("fp8-block", "fp8", "TFLOP/s", limit=4e-2)


def _both_quantized(scheme: Any, activations: str, unit: str, *, limit: float) -> Iterator[Case]:
    shapes = [(rows, shape) for rows in MANY for shape in (*LLAMA, *SQUARE)]
    for rows, shape in [*shapes, (8192, SQUARE[0])]:
        yield _quantized(rows, shape, scheme, activations, unit, limit)


def _quantized(
    rows: int, shape: Shape, scheme: Any, activations: str, unit: str, limit: float
) -> Case:
    n, k = shape
    moved = n * k + rows * (k + 2 * n)
    weights = _weights(shape, moved, torch.bfloat16)
    quantized = [quantize_weight(w, scheme) for w in weights]
    x = random(rows, k, seed=1, dtype=torch.bfloat16)
    # In fp32 on purpose: fp64 products of this size take longer than the whole case.
    wanted = x.float() @ quantized[0].dequantize(torch.float32).t()
    subjects = Subjects(moved, wanted=wanted)
    _add_own(subjects, _calls(x, quantized, activations=activations), limit=limit)
    subjects.add(BF16, _dense(x, weights))
    if scheme == "int8":
        subjects.add(INT_MM, lambda i: peers.int_mm(quantized[i], x), limit=limit)
    if scheme == "fp8":
        subjects.add(SCALED_MM, lambda i: peers.scaled_mm(quantized[i], x), limit=limit)
    gemlite, helper = find("gemlite.helper", distribution="gemlite")
    name = "A8W8_int8_dynamic" if scheme == "int8" else "A8W8_fp8_dynamic"
    block = {"block_quant": True} if scheme == "fp8-block" else {}
    subjects.add_peer(
        GEMLITE,
        gemlite,
        lambda i: peers.gemlite(helper, name, weights[i], x, **block),
        limit=6e-2,
    )
    return _case(f"M={rows}", shape, subjects, work=2.0 * rows * n * k, unit=unit)


def _weights(shape: Shape, nbytes: int, dtype: torch.dtype) -> list[torch.Tensor]:
    n, k = shape
    count = Subjects(nbytes).copies
    return [random(n, k, seed=100 + i, dtype=torch.float32).mul_(k**-0.5).to(dtype)
            for i in range(count)]  # fmt: skip


def _calls(x: torch.Tensor, weights: Sequence[Any], *, activations: str) -> Callable[[int], Call]:
    return lambda i: lambda: _linear()(x, weights[i], activations=activations)


def _dense(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> Callable[[int], Call]:
    return lambda i: lambda: F.linear(x, weights[i])


def _add_own(subjects: Subjects, make: Callable[[int], Call], *, limit: float) -> None:
    subjects.add(OWN, make, limit=limit)
    # The same version once more: what lies between the two is noise.
    subjects.add(AGAIN, make)


def _case(group: str, shape: Shape, subjects: Subjects, *, work: float, unit: str) -> Case:
    n, k = shape
    return Case(group, f"{n} x {k}", subjects.calls, work, unit, skipped=subjects.skipped)
