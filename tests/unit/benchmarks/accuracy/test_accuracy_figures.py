"""From figures of seeds to records: pooled metrics, shares of fp32, the better int4."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from benchmarks.accuracy.bars import ARITHMETIC, FILE, KEPT, LIMITS, LINEARS, LOST, TENSORS
from benchmarks.accuracy.figures import SeedFigures, VariantFigures, records_of
from benchmarks.accuracy.subject import Effort, Score, Subject, pooled
from benchmarks.bars import BARS, judge
from benchmarks.machine import Stamp
from benchmarks.record import Record

STAMP = Stamp("accuracy", "Some CPU", {"python": "3.11.9"}, "0123456789ab", "2026-01-02")


def not_made(*_: Any) -> Any:
    raise AssertionError("records come from figures alone")


def subject(
    *variants: str,
    name: str = "BERT",
    metric: str = "accuracy",
    better: Literal["higher", "lower"] = "higher",
) -> Subject:
    return Subject(name, metric, better, not_made, variants)


def variant(total: float, samples: int = 100, **fields: int) -> VariantFigures:
    usual = {"tensor_bytes": 250, "file_bytes": 300, "expected_bytes": 250, "int4_bytes": 0,
             "int4_parameters": 0}  # fmt: skip
    return VariantFigures(total, samples, **(usual | fields))


def seed(total: float, *, samples: int = 100, **variants: VariantFigures) -> SeedFigures:
    named = {name.replace("_", " "): figures for name, figures in variants.items()}
    return SeedFigures(total, samples, 80_000, 1000, 1200, named)


def found(subject: Subject, *seeds: SeedFigures) -> dict[tuple[str, str], Record]:
    return {(r.case, r.metric): r for r in records_of(STAMP, subject, seeds)}


def test_a_metric_is_that_of_all_samples_and_its_range_that_of_the_seeds() -> None:
    seeds = [seed(90, int8=variant(81)), seed(190, samples=200, int8=variant(190, 200))]
    records = found(subject("int8"), *seeds)
    exact, kept = records["BERT fp32 (80,000 weights)", "accuracy"], records["BERT int8", KEPT]
    assert exact.value == pytest.approx(280 / 300)
    assert exact.n == 300
    assert kept.value == pytest.approx(271 / 280, rel=1e-4)
    assert kept.spread is not None
    assert kept.spread.low == pytest.approx(0.9)
    assert kept.spread.high == pytest.approx(1)


def test_of_bits_the_fewer_are_the_better() -> None:
    language = subject("int8", metric="bits per byte", better="lower")
    records = found(language, seed(200, int8=variant(250)))
    assert records["BERT int8", KEPT].value == pytest.approx(0.8)


def test_bytes_are_shares_of_fp32() -> None:
    records = found(subject("mixed"), seed(90, mixed=variant(90, expected_bytes=200)))
    assert records["BERT mixed", TENSORS].value == pytest.approx(25)
    assert records["BERT mixed", FILE].value == pytest.approx(25)
    assert records["BERT mixed", ARITHMETIC].value == pytest.approx(25)


def test_bytes_of_int4_are_those_of_its_own_layers() -> None:
    figures = variant(90, int4_bytes=130, int4_parameters=250)
    seeds = seed(90, int4_gptq=figures, int4_awq=figures)
    records = found(subject("int4 gptq", "int4 awq"), seeds)
    assert records["BERT int4 (the better: gptq)", LINEARS].value == pytest.approx(13)
    assert ("BERT int4 gptq", LINEARS) not in records  # the same bytes, told once


def test_only_a_variant_with_int4_layers_has_bytes_of_them() -> None:
    assert ("BERT int8", LINEARS) not in found(subject("int8"), seed(90, int8=variant(90)))


@pytest.mark.parametrize(("gptq", "awq", "best"), [(89, 85, "gptq"), (80, 85, "awq")])
def test_the_better_method_counts_as_int4(gptq: int, awq: int, best: str) -> None:
    seeds = seed(90, int4_gptq=variant(gptq), int4_awq=variant(awq))
    records = found(subject("int4 gptq", "int4 awq"), seeds)
    better = records[f"BERT int4 (the better: {best})", KEPT]
    assert better.value == records[f"BERT int4 {best}", KEPT].value


def test_what_int4_loses_is_compared_with_what_plain_rounding_loses() -> None:
    given = seed(100, int4_gptq=variant(98), int4_awq=variant(96), int4_nearest=variant(94))
    records = found(subject("int4 gptq", "int4 awq", "int4 nearest", name="MiniLM"), given)
    record = records["MiniLM int4 (the better: gptq)", LOST]
    assert (record.value, record.peer_value, record.ratio) == (2.0, 6.0, 3.0)
    verdict = judge(record)
    assert verdict is not None
    assert verdict.passed


def test_nothing_is_compared_where_nothing_is_lost() -> None:
    given = seed(100, int4_gptq=variant(101), int4_awq=variant(96), int4_nearest=variant(94))
    records = found(subject("int4 gptq", "int4 awq", "int4 nearest"), given)
    assert all(metric != LOST for _, metric in records)


def test_every_limit_is_a_bar_of_the_page() -> None:
    assert all(("accuracy", case, metric, None) in BARS for case, metric, *_ in LIMITS)
    assert len({(case, metric) for case, metric, *_ in LIMITS}) == len(LIMITS)


def test_a_score_of_several_weighs_samples_alike() -> None:
    assert pooled([Score(1, 2), Score(3, 3)]).value == pytest.approx(4 / 5)


@pytest.mark.parametrize(("part", "steps"), [(1.0, 600), (0.05, 30), (0.0001, 2)])
def test_less_effort_means_fewer_steps_but_never_none(part: float, steps: int) -> None:
    assert replace(Effort(), part=part).steps(600) == steps
