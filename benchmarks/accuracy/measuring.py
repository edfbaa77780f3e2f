"""The figures of one subject and seed: train or load, then quantize and judge every variant."""

from __future__ import annotations

import torch

from benchmarks.accuracy.figures import SeedFigures, VariantFigures
from benchmarks.accuracy.store import Figures, Weights
from benchmarks.accuracy.subject import Effort, Subject, Trained
from benchmarks.accuracy.variants import VARIANTS, bytes_of_fp32, expected_bytes, quantize

__all__ = ["measure_seed"]


def measure_seed(subject: Subject, seed: int, effort: Effort) -> None:
    """Measure, and keep the figures.

    One thread, so that sums have one order and the same seed gives the same model.
    """
    torch.set_num_threads(1)
    kept = Figures.of(subject, effort)  # of the code as it is now, not when training has ended
    trained = subject.make(seed, effort, Weights.of(subject, seed, effort).train)
    exact = trained.score(trained.module)
    before = bytes_of_fp32(trained.module)
    found = SeedFigures(
        total=exact.total,
        samples=exact.samples,
        parameters=sum(p.numel() for p in trained.module.parameters()),
        tensor_bytes=before.tensors,
        file_bytes=before.file,
        variants={name: _measure_variant(trained, name) for name in subject.variants},
    )
    kept.write(seed, found)


def _measure_variant(trained: Trained, name: str) -> VariantFigures:
    variant = VARIANTS[name]
    expected = expected_bytes(trained.module, variant.policy)
    made = quantize(trained, variant)
    score = trained.score(made.module)
    int4 = [layer for layer in made.report.layers if layer.scheme.startswith("int4")]
    return VariantFigures(
        total=score.total,
        samples=score.samples,
        tensor_bytes=made.bytes.tensors,
        file_bytes=made.bytes.file,
        expected_bytes=expected,
        int4_bytes=sum(layer.bytes_after for layer in int4),
        int4_parameters=sum(layer.parameters for layer in int4),
    )
