"""Cases of norm, gate and activation with quantization, K8. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from deepseek_kernels.ops.norm_quantize import norm_quantize
from deepseek_kernels.ops.silu_mul_quantize import silu_mul_quantize

from benchmarks.gpu import inputs as inputs_of
from benchmarks.gpu.goals import COMPILED, COPY, EAGER
from benchmarks.gpu.inputs import Subjects, random
from benchmarks.gpu.peers import find
from benchmarks.gpu.running import AGAIN, OWN, Case

__all__ = ["fill", "quantizing"]

ROWS = (2048, 8192)
WIDTHS = (4096, 8192, 14336)


def quantizing() -> Iterator[Case]:
    """K8: rows of bf16 in, int8 values and scales out."""
    for rows in ROWS:
        for width in WIDTHS:
            yield _norm(rows, width)
            yield _gate(rows, width)


def _norm(rows: int, width: int) -> Case:
    moved = rows * width * 3 + rows * 4
    subjects = Subjects(moved)
    inputs = [random(rows, width, seed=i, dtype=torch.bfloat16) for i in range(subjects.copies)]
    weight = random(width, seed=99, dtype=torch.bfloat16)

    def eager(x: torch.Tensor) -> Any:
        return _quantize(F.rms_norm(x, (width,), weight, 1e-5))

    def own(x: torch.Tensor) -> Any:
        return norm_quantize(x, weight, kind="rms")

    subjects.wanted = _back(eager(inputs[0])).reshape(rows, width)
    fill(subjects, inputs, own, eager, moved, _back)
    liger, module = find("liger_kernel.ops.rms_norm", distribution="liger-kernel")

    def liger_norm(i: int) -> Callable[[], Any]:
        function = module.LigerRMSNormFunction.apply
        # In place is its default; the next round would normalize what this one left.
        return lambda: _quantize(function(inputs[i], weight, 1e-5, 0.0, "llama", False))

    subjects.add_peer("liger and eager quantization", liger, liger_norm)
    return Case("norm and quantize", f"{rows} x {width}", subjects.calls, moved, "TB/s",
                skipped=subjects.skipped)  # fmt: skip


def _gate(rows: int, width: int) -> Case:
    moved = rows * width * 5 + rows * 4
    subjects = Subjects(moved)
    inputs = [
        (random(rows, width, seed=i, dtype=torch.bfloat16),
         random(rows, width, seed=500 + i, dtype=torch.bfloat16))
        for i in range(subjects.copies)
    ]  # fmt: skip

    def eager(pair: Any) -> Any:
        return _quantize(F.silu(pair[0]) * pair[1])

    def own(pair: Any) -> Any:
        return silu_mul_quantize(*pair)

    subjects.wanted = _back(eager(inputs[0]))
    fill(subjects, inputs, own, eager, moved, _back)
    liger, module = find("liger_kernel.ops.swiglu", distribution="liger-kernel")
    subjects.add_peer(
        "liger and eager quantization",
        liger,
        lambda i: lambda: _quantize(module.LigerSiLUMulFunction.apply(*inputs[i])),
    )
    return Case("SiLU-mul and quantize", f"{rows} x {width}", subjects.calls, moved, "TB/s",
                skipped=subjects.skipped)  # fmt: skip


def fill(
    subjects: Subjects,
    inputs: list[Any],
    own: Callable[[Any], Any],
    eager: Callable[[Any], Any],
    moved: int,
    back: Callable[[Any], torch.Tensor],
) -> None:
    """Add our own subject, checked through ``back``, eager and compiled torch, and a copy."""
    # int8 steps of a different order of rounding differ by one here and there.
    subjects.add(f"{OWN}, dequantized", lambda i: lambda: back(own(inputs[i])), limit=2e-2)
    if f"{OWN}, dequantized" not in subjects.calls:
        subjects.skipped[OWN] = subjects.skipped.pop(f"{OWN}, dequantized")
        return
    del subjects.calls[f"{OWN}, dequantized"]
    subjects.add(OWN, lambda i: lambda: own(inputs[i]))
    subjects.add(AGAIN, lambda i: lambda: own(inputs[i]))
    subjects.add(EAGER, lambda i: lambda: eager(inputs[i]))
    compiled = torch.compile(eager)
    subjects.add(COMPILED, lambda i: lambda: compiled(inputs[i]))
    # A copy reads and writes each byte, so that half of the bytes move as many.
    sources = [torch.empty(moved // 2, dtype=torch.uint8, device=inputs_of.DEVICE) for _ in inputs]
    targets = [torch.empty_like(source) for source in sources]
    subjects.add(COPY, lambda i: lambda: targets[i].copy_(sources[i]))


def _quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = x.abs().amax(-1, keepdim=True).float().clamp_min(1e-10) / 127
    return torch.round(x / scale).to(torch.int8), scale


def _back(pair: Any) -> torch.Tensor:
    values, scale = pair
    found: torch.Tensor = values.float() * scale.reshape(*values.shape[:-1], 1)
    return found
