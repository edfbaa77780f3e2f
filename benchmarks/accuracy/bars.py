"""What the accuracy bench must reach; see `benchmarks.bars`, which adds these to its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

__all__ = ["ARITHMETIC", "FILE", "KEPT", "LIMITS", "LINEARS", "TENSORS"]

KEPT = "metric kept"
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
    for name in TRAINED:
        for variant in ("int8", "mixed"):
            yield f"{name} {variant}", KEPT, "at least", 99.5, "%"
    for name in WITH_INT4:
        yield f"{name} int4", KEPT, "at least", 98.5, "%"
    yield "MiniLM int4", KEPT, "at least", 97.0, "%"
    for name in (*TRAINED, *REAL):
        yield f"{name} int8", TENSORS, "at most", 27.0, "%"
        yield f"{name} mixed", ARITHMETIC, "at most", 1.0, "%"
    for name, limit in MIXED_FILES.items():
        yield f"{name} mixed", FILE, "at most", limit, "%"
    for name in (*WITH_INT4, "MiniLM"):
        yield f"{name} int4", LINEARS, "at most", 14.0, "%"


LIMITS = tuple(_limits())
"""Case, metric, what the value must be, the limit and its unit."""
