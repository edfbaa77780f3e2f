"""What the accuracy bench must reach; `benchmarks.bars` adds these to its own.

Each limit is for what a family is built of: a bar on int4 for layers that int4 is used for, a bar
on a whole file for the policy that the file was written with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

__all__ = [
    "ARITHMETIC", "BESIDE_NEAREST", "FILE", "KEPT", "LIMITS", "LINEARS", "LOST", "NEAREST",
    "TENSORS",
]  # fmt: skip

KEPT = "metric kept"
LOST = "metric lost"
TENSORS = "tensor bytes of fp32"
FILE = "file bytes of fp32"
LINEARS = "int4 linear bytes of fp32"
ARITHMETIC = "tensor bytes off the policy's arithmetic"

TRAINED = ("CNN", "MLP", "ViT", "BERT", "T5 encoder", "GPT-2", "3D-UNet")
"""Small models that the bench trains."""
WITH_INT4 = ("CNN", "MLP", "ViT", "BERT", "T5 encoder", "GPT-2")
REAL = ("MiniLM", "EfficientNet-Lite0")
MIXED_FILES = {
    "CNN": 28.0, "EfficientNet-Lite0": 28.0, "ViT": 35.0, "BERT": 35.0, "MiniLM": 35.0,
    "GPT-2": 35.0, "T5 encoder": 38.0,
}  # fmt: skip
"""Percent of fp32's file that ``mixed`` may take."""
Limit = tuple[str, str, Literal["at least", "at most"], float, str]


def _limits() -> Iterator[Limit]:
    for name in ("CNN", "MLP", "ViT"):
        yield f"{name} fp32", "accuracy", "at least", 0.97, ""
    for name in (*TRAINED, *REAL):
        for variant in ("int8", "mixed"):
            yield f"{name} {variant}", KEPT, "at least", 0.995, ""
    for name in WITH_INT4:
        yield f"{name} int4", KEPT, "at least", 0.985, ""
    yield "MiniLM int4", KEPT, "at least", 0.97, ""
    for name in (*TRAINED, *REAL):
        yield f"{name} int8", TENSORS, "at most", 27.0, "%"
        yield f"{name} mixed", ARITHMETIC, "at most", 1.0, "%"
    for name, limit in MIXED_FILES.items():
        yield f"{name} mixed", FILE, "at most", limit, "%"
    yield "EfficientNet-Lite0 mixed with an int8 head", FILE, "at most", 28.0, "%"
    for name in (*WITH_INT4, "MiniLM"):
        yield f"{name} int4", LINEARS, "at most", 14.0, "%"


LIMITS = tuple(_limits())
"""Case, metric, what the value must be, the limit and its unit."""
NEAREST = {
    "int4 nearest": "rounded to the nearest, groups of 128",
    "int4 g32 nearest": "rounded to the nearest, groups of 32",
}
"""Variants that the better int4 is compared with, and how the page calls them."""
BESIDE_NEAREST = tuple(("MiniLM int4", LOST, peer) for peer in NEAREST.values())
"""Case, metric and peer: the case must lose less than the peer."""
