"""What is measured on a GPU and what it must reach, as data.

Why it exists: goals are decided before anything is measured, and the run, the page and the tests
read the same table. A ``must`` is the bar of the performance page; a ``stretch`` is told beside it.
Figures are geometric means over a part's shapes, on one H100, in one process with the peers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["LLAMA", "ORDER", "PARTS", "Goal", "Part", "Shape", "record_case", "stretch_of"]

Shape = tuple[int, int]
"""Output and input features, N and K."""
LLAMA: tuple[Shape, ...] = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
"""The linear layers of Llama-3-8B."""
BERT: tuple[Shape, ...] = ((2304, 768), (3072, 768))
SQUARE: tuple[Shape, ...] = ((8192, 8192),)


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure that a part has to reach."""

    case: str
    """Begins with the rows, for example ``M=1``."""
    peer: str
    """What it is compared with; empty for a figure of its own."""
    metric: str
    unit: str
    must: float
    stretch: float | None = None
    kind: Literal["at least", "at most"] = "at least"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the run."""

    title: str
    method: str
    goals: tuple[Goal, ...]
    module: str
    """``module:function`` below `benchmarks.gpu` that gives the cases."""
    stretch_rate: tuple[float, str] | None = None
    """A rate, and its unit, that the largest shape may reach."""


def _times(case: str, peer: str, must: float, stretch: float | None = None) -> Goal:
    return Goal(case, peer, "speed-up", "x", must, stretch)


FP16, BF16 = "torch fp16", "torch bf16"
GEMLITE, TINYGEMM, TORCHAO = "gemlite", "tinygemm", "torchao, compiled"
INT_MM, SCALED_MM = "torch._int_mm and eager scales", "torch._scaled_mm"
COMPILED, EAGER, COPY = "torch.compile", "torch eager", "a copy of the same bytes"
SDPA, BF16_CACHE = "torch SDPA, contiguous", "our kernel, bf16 cache"

PARTS: dict[str, Part] = {
    "k1": Part(
        "W4A16, few rows",
        "int4 weights in groups of 128, fp16 activations, 1 to 8 rows.",
        (_times("M=1", FP16, 2.0, 2.6), _times("M=1", GEMLITE, 1.2), _times("M=1", TINYGEMM, 1.0)),
        "linear:few_rows_int4",
    ),
    "k2": Part(
        "W4A16, 16 to 64 rows",
        "int4 weights in groups of 128, fp16 activations.",
        (
            _times("M=16", FP16, 1.5, 2.2),
            _times("M=64", FP16, 1.1, 1.5),
            _times("M=16", GEMLITE, 1.2),
        ),
        "linear:some_rows_int4",
    ),
    "k3": Part(
        "W8A16, few rows",
        "int8 weights by row, bf16 activations, 1 to 32 rows.",
        (_times("M=1", BF16, 1.5, 1.75), _times("M=1", TORCHAO, 1.0)),
        "linear:few_rows_int8",
    ),
    "k4": Part(
        "W8A8 int8, activations quantized by token",
        "The time includes quantizing the activations and the scales of the result.",
        (
            _times("M=1024", BF16, 1.3),
            _times("M=1024", INT_MM, 1.1),
        ),
        "linear:int8",
        (1000.0, "TOP/s"),
    ),
    "k5": Part(
        "FP8 by row",
        "Weights fp8 by row, activations quantized by token within the time.",
        (
            _times("M=1024", SCALED_MM, 0.85),
            _times("M=1024", BF16, 1.3),
        ),
        "linear:fp8",
        (1250.0, "TFLOP/s"),
    ),
    "k6": Part(
        "FP8 by block, 1 x 128 activations and 128 x 128 weights",
        "Activations quantized within the time, sums promoted to fp32 every 128 of K.",
        (
            _times("M=1024", BF16, 1.1),
            _times("M=1024", GEMLITE, 1.3),
        ),
        "linear:fp8_block",
        (900.0, "TFLOP/s"),
    ),
    "k7": Part(
        "Paged attention of decoding sequences",
        "One token of each sequence, 32 heads on 8 of keys, 128 wide, shuffled blocks of 16. The "
        "peer of the share is a copy that moves as many bytes as keys, values and scales have.",
        (
            _times("many sequences, bf16 cache", COPY, 0.70, 0.85),
            _times("many sequences, bf16 cache", SDPA, 1.0),
            _times("many sequences, fp8 cache", COPY, 0.70),
            _times("many sequences, fp8 cache", BF16_CACHE, 1.3, 1.7),
        ),
        "step:attention",
    ),
    "k8": Part(
        "What stands between products, in one pass",
        "Norm and gate with quantization: bf16 rows in, int8 values and a scale by row out. RoPE "
        "with the write into the paged cache, residual and norm, SiLU-mul: bf16 in and out. The "
        "peer of the share is a copy that moves as many bytes.",
        (
            _times("norm and quantize", COPY, 0.85, 0.92),
            _times("norm and quantize", COMPILED, 1.0),
            _times("norm and quantize", EAGER, 3.0),
            _times("SiLU-mul and quantize", COPY, 0.85, 0.92),
            _times("SiLU-mul and quantize", COMPILED, 1.0),
            _times("RoPE and write", COMPILED, 1.0),
            _times("RoPE and write", EAGER, 3.0),
            _times("residual and norm", COPY, 0.85, 0.92),
            _times("residual and norm", COMPILED, 1.0),
            _times("SiLU-mul", COPY, 0.85, 0.92),
            _times("SiLU-mul", COMPILED, 1.0),
        ),
        "step:fused",
    ),
    "k9": Part(
        "2:4 sparse weights",
        "Through torch's cuSPARSELt where that is measured to be faster, else dense.",
        (_times("M=2048", BF16, 1.0, 1.2),),
        "sparse:semi_structured",
    ),
    "k10": Part(
        "Activation-sparse GEMV",
        "Half of the activations below the threshold, one row, K-major weights.",
        (_times("M=1, half sparse", BF16, 1.4, 1.7),),
        "sparse:activations",
    ),
    "bert": Part(
        "BERT-base, 128 tokens",
        "Random weights of seed 0 under a CUDA graph; the peer is the class of transformers in "
        "bf16 with torch.compile.",
        (
            Goal("batch 1, best", "", "latency", "ms", 0.6, 0.4, "at most"),
            Goal("batch 128, bf16", "", "throughput", "sequences/s", 15_000, 22_000),
            Goal(
                "batch 128, best of int8 and fp8", "", "throughput", "sequences/s", 20_000, 32_000
            ),
        ),
        "bert:encoder",
    ),
}
"""Every part by its name."""

ORDER = ("k1", "k4", "k7", "k8", "k5", "k6", "k2", "k3", "k9", "k10", "bert")
"""What is measured first when time is short."""


def record_case(goal: Goal) -> str:
    """The case under which the run records what a goal is about."""
    if goal.metric == "speed-up":
        return f"{goal.case} against {goal.peer}, geometric mean"
    return f"{goal.case}, 128 tokens"


def stretch_of(part: Part) -> str:
    """What a part may reach beyond its goals, as a sentence for a page; empty without any."""
    wishes = [
        f"{goal.case}{f' against {goal.peer}' if goal.peer else ''}: {goal.stretch:g} {goal.unit}"
        for goal in part.goals
        if goal.stretch is not None
    ]
    if part.stretch_rate is not None:
        rate, unit = part.stretch_rate
        wishes.append(f"the largest shape: {rate:g} {unit}")
    return f" Stretch goals: {'; '.join(wishes)}." if wishes else ""
