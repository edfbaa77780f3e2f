"""From figures of single seeds to records: pooled metrics and shares of fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.accuracy.bars import ARITHMETIC, FILE, KEPT, LINEARS, LOST, NEAREST, TENSORS
from benchmarks.accuracy.subject import Score, Subject, pooled
from benchmarks.machine import Stamp
from benchmarks.record import Record, Spread
from benchmarks.stats import significant

__all__ = ["SeedFigures", "VariantFigures", "records_of"]

METHODS = ("int4 gptq", "int4 awq")
"""Ways to int4 of which the better one counts."""


@dataclass(frozen=True, slots=True)
class VariantFigures:
    """One way to quantize one trained model."""

    total: float
    samples: int
    tensor_bytes: int
    file_bytes: int
    expected_bytes: int
    """Tensors by the policy's arithmetic."""
    int4_bytes: int
    """Of the layers that became int4, scales included."""
    int4_parameters: int

    @property
    def score(self) -> Score:
        """The metric."""
        return Score(self.total, self.samples)


@dataclass(frozen=True, slots=True)
class SeedFigures:
    """One trained model in fp32, and its variants."""

    total: float
    samples: int
    parameters: int
    tensor_bytes: int
    file_bytes: int
    variants: Mapping[str, VariantFigures]

    @property
    def score(self) -> Score:
        """The metric of fp32."""
        return Score(self.total, self.samples)


def records_of(stamp: Stamp, subject: Subject, seeds: Sequence[SeedFigures]) -> Iterator[Record]:
    """The records of a subject: fp32, then each way to quantize it, then the better int4."""
    exact = pooled(seed.score for seed in seeds)
    case = f"{subject.name} fp32 ({seeds[0].parameters:,} weights)"
    unit = "bits/byte" if subject.metric == "bits per byte" else ""
    record = stamp.fact(case, subject.metric, unit, value=exact.value, n=exact.samples)
    yield _spread(record, [seed.score.value for seed in seeds])
    kept = {}
    for name in subject.variants:
        chosen = [seed.variants[name] for seed in seeds]
        kept[name] = subject.kept(exact, pooled(figures.score for figures in chosen))
        yield from _variant(stamp, subject, seeds, name, f"{subject.name} {name}")
    if set(METHODS) <= kept.keys():
        best = max(METHODS, key=lambda name: kept[name])
        better = f"{subject.name} int4 (the better: {best.removeprefix('int4 ')})"
        yield from _variant(stamp, subject, seeds, best, better)
        yield from _beside_nearest(stamp, better, best, kept)


def _beside_nearest(
    stamp: Stamp, case: str, best: str, kept: Mapping[str, float]
) -> Iterator[Record]:
    """What the better int4 loses beside what plain rounding loses, where both lose something."""
    lost = {name: 100 * (1 - part) for name, part in kept.items()}
    for name, peer in NEAREST.items():
        if lost.get(name, 0) > 0 and lost[best] > 0:
            record = stamp.fact(case, LOST, "%", value=lost[best], n=1)
            yield record.model_copy(
                update={
                    "peer": peer,
                    "peer_value": significant(lost[name]),
                    "ratio": significant(lost[name] / lost[best]),
                }
            )


def _variant(
    stamp: Stamp, subject: Subject, seeds: Sequence[SeedFigures], name: str, case: str
) -> Iterator[Record]:
    chosen = [seed.variants[name] for seed in seeds]
    exact = pooled(seed.score for seed in seeds)
    found = pooled(figures.score for figures in chosen)
    pairs = list(zip(seeds, chosen, strict=True))
    parts = [subject.kept(seed.score, figures.score) for seed, figures in pairs]
    value = subject.kept(exact, found)
    yield _spread(stamp.fact(case, KEPT, "", value=value, n=found.samples), parts)

    def share(metric: str, of: Callable[[SeedFigures, VariantFigures], float]) -> Record:
        # Every seed has the same shapes and so the same bytes.
        return stamp.fact(case, metric, "%", value=100 * of(*pairs[0]), n=1)

    yield share(FILE, lambda seed, figures: figures.file_bytes / seed.file_bytes)
    if name in METHODS and case.endswith(name):
        return  # the better one tells the rest: both have the same bytes
    yield share(TENSORS, lambda seed, figures: figures.tensor_bytes / seed.tensor_bytes)
    if chosen[0].int4_parameters:
        yield share(LINEARS, lambda _, figures: figures.int4_bytes / (4 * figures.int4_parameters))
    if name.startswith("mixed"):
        yield share(
            ARITHMETIC, lambda _, figures: abs(figures.tensor_bytes / figures.expected_bytes - 1)
        )


def _spread(record: Record, seeds: Sequence[float]) -> Record:
    """The same with the lowest and the highest of the seeds."""
    if len(seeds) == 1:
        return record
    return record.model_copy(update={"spread": Spread(low=min(seeds), high=max(seeds))})
