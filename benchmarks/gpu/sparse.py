"""Cases of sparse weights and activations, K9 and K10. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from deepseek_kernels.ops.semi_structured import prune_2_4
from deepseek_kernels.ops.sparse_gemv import activation_threshold, k_major, sparse_gemv
from deepseek_kernels.semi_structured import SemiStructuredWeight

from benchmarks.gpu.goals import BF16, LLAMA, SQUARE, Shape
from benchmarks.gpu.inputs import Subjects, random
from benchmarks.gpu.running import AGAIN, OWN, Case

__all__ = ["activations", "semi_structured"]

HALF = 0.5


def semi_structured() -> Iterator[Case]:
    """K9: the object that chooses between cuSPARSELt and the dense product."""
    for rows in (512, 2048, 8192):
        for shape in (*LLAMA, *SQUARE):
            yield _pruned(rows, shape)


def _pruned(rows: int, shape: Shape) -> Case:
    n, k = shape
    subjects = Subjects(2 * n * k + 2 * rows * (n + k))
    weights = [prune_2_4(weight) for weight in _weights(shape, subjects.copies)]
    x = random(rows, k, seed=77, dtype=torch.bfloat16)
    sparse = [SemiStructuredWeight(weight) for weight in weights]
    subjects.wanted = x.float() @ weights[0].float().t()
    subjects.add(OWN, lambda i: lambda: sparse[i](x), limit=1e-2)
    subjects.add(AGAIN, lambda i: lambda: sparse[i](x))
    subjects.add(BF16, lambda i: lambda: F.linear(x, weights[i]))
    return Case(f"M={rows}", f"{n} x {k}", subjects.calls, 2.0 * rows * n * k, "TFLOP/s",
                skipped=subjects.skipped)  # fmt: skip


def activations() -> Iterator[Case]:
    """K10: one row of which half is skipped."""
    for shape in (*LLAMA, *SQUARE):
        yield _half(shape)


def _half(shape: Shape) -> Case:
    n, k = shape
    subjects = Subjects(2 * n * k)
    weights = _weights(shape, subjects.copies)
    turned = [k_major(weight) for weight in weights]
    x = random(1, k, seed=77, dtype=torch.bfloat16)
    threshold = activation_threshold(x, HALF)
    kept = torch.where(x.abs() > threshold, x, torch.zeros_like(x))
    subjects.wanted = kept.float() @ weights[0].float().t()
    subjects.add(OWN, lambda i: lambda: sparse_gemv(x, turned[i], threshold), limit=1e-2)
    subjects.add(AGAIN, lambda i: lambda: sparse_gemv(x, turned[i], threshold))
    subjects.add(BF16, lambda i: lambda: F.linear(x, weights[i]))
    return Case("M=1, half sparse", f"{n} x {k}", subjects.calls, float(n * k), "TB/s",
                skipped=subjects.skipped)  # fmt: skip


def _weights(shape: Shape, count: int) -> list[torch.Tensor]:
    n, k = shape
    return [random(n, k, seed=i).mul_(k**-0.5).to(torch.bfloat16) for i in range(count)]
