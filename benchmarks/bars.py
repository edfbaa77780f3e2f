"""What the figures must reach, and whether they do.

Why it exists: a bar is decided before it is measured. Bars live here, apart from benches and from
results; the printed table and the performance page both read them. No test asserts them: a test
must not depend on how busy a machine is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.accuracy.bars import BESIDE_NEAREST, LIMITS
from benchmarks.gpu.goals import PARTS, record_case
from benchmarks.peers import (
    ONE_AT_A_TIME,
    ORT_FP32,
    ORT_INT8,
    TORCH_FP32,
    TRANSFORMERS_GENERATE,
)
from benchmarks.record import Record

__all__ = ["BARS", "GPU_BARS", "Bar", "Verdict", "bar_key", "bar_of", "judge"]

Kind = Literal["ratio", "at least", "at most"]


@dataclass(frozen=True, slots=True)
class Bar:
    """What one figure must reach."""

    kind: Kind
    """``ratio``: the ratio to the peer is at least this; else the value is at least or most."""
    limit: float
    unit: str = ""

    def __str__(self) -> str:
        """For a table: ``≥ 1.6x`` or ``≤ 120 MiB``."""
        sign = "≤" if self.kind == "at most" else "≥"
        unit = "x" if self.kind == "ratio" else f" {self.unit}" if self.unit else ""
        return f"{sign} {self.limit:g}{unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a figure stands to its bar."""

    bar: Bar
    shortfall: float
    """Part by which it falls short, 0.1 is 10 %; 0 or less passes."""

    @property
    def passed(self) -> bool:
        """Whether the bar is reached."""
        return self.shortfall <= 0

    def __str__(self) -> str:
        """For a table."""
        if self.passed:
            return "passes"
        percent = self.shortfall * 100
        return f"falls short by {percent:.0f} %" if percent >= 1 else "falls short by < 1 %"


def _at_least(limit: float) -> Bar:
    return Bar("at least", limit)


def _at_most(limit: float, unit: str = "") -> Bar:
    return Bar("at most", limit, unit)


def _times(limit: float) -> Bar:
    return Bar("ratio", limit)


_PACED = "one pipeline a second"
_Key = tuple[str, str, str, str | None]
BARS: dict[_Key, Bar] = {
    ("encoder_cpu", "int8 as served", "latency", ORT_FP32): _times(1.6),
    ("encoder_cpu", "int8 as served", "latency", TORCH_FP32): _times(2.0),
    ("encoder_cpu", "int8 as served", "latency", ORT_INT8): _times(0.95),
    ("grpc_overhead", "BERT-base int8, 16 callers", "throughput", ORT_INT8): _times(0.85),
    ("footprint", "front end", "resident memory", None): _at_most(120, "MiB"),
    ("footprint", "front end and engine", "resident memory", None): _at_most(500, "MiB"),
    ("footprint", "start, bundles cached", "time to ready", None): _at_most(15, "s"),
    ("real_models", "MiniLM auto as served, one by one", "latency", ORT_FP32): _times(1.25),
    ("real_models", "MiniLM auto as served, batches of 8", "latency", ORT_FP32): _times(1.25),
    ("real_models", "MiniLM auto back end alone, one by one", "latency", ORT_FP32): _times(1.25),
    ("real_models", "MiniLM auto back end alone, batches of 8", "latency", ORT_FP32): _times(1.25),
    ("real_models", "MiniLM auto", "mean cosine with fp32", None): _at_least(0.994),
    ("real_models", "MiniLM auto", "worst cosine with fp32", None): _at_least(0.985),
    ("real_models", "MiniLM int8", "mean cosine with fp32", None): _at_least(0.989),
    ("real_models", "MiniLM int8", "worst cosine with fp32", None): _at_least(0.97),
    ("real_models", "MiniLM int8", "tensor bytes of fp32", None): _at_most(27, "%"),
    ("real_models", "EfficientNet int8", "top-1 agreement with fp32", None): _at_least(0.99),
    ("real_models", "EfficientNet int8", "tensor bytes of fp32", None): _at_most(27, "%"),
    ("generation_batching", "16 clients", "throughput", ONE_AT_A_TIME): _times(3.0),
    ("generation_batching", "16 clients", "throughput", TRANSFORMERS_GENERATE): _times(1.0),
    ("operator_scale", "applied at once", "until all children exist", None): _at_most(240, "s"),
    ("operator_scale", _PACED, "apply to all children, p50", None): _at_most(1, "s"),
    ("operator_scale", _PACED, "apply to all children, p99", None): _at_most(5, "s"),
    ("operator_scale", "idle", "API requests, mean", None): _at_most(30, "/s"),
    ("operator_scale", "idle", "API requests, worst minute", None): _at_most(30, "/s"),
    ("operator_scale", "operator", "resident memory, most", None): _at_most(400, "MiB"),
    ("operator_scale", "operator", "resident memory, growth while idle", None): _at_most(8, "MiB"),
    ("operator_chaos", "whole run", "longest untrue Ready", None): _at_most(10, "s"),
    ("operator_chaos", "whole run", "most replicas that may exist", None): _at_most(5),
    **{
        ("accuracy", case, metric, None): Bar(kind, limit, unit)
        for case, metric, kind, limit, unit in LIMITS
    },
    **{("accuracy", case, metric, peer): _times(1) for case, metric, peer in BESIDE_NEAREST},
}
"""Bars by bench, case (without what stands in parentheses), metric and peer."""

GPU_BARS: dict[_Key, Bar] = {
    (f"gpu_{name}", record_case(goal), goal.metric, None): Bar(goal.kind, goal.must, goal.unit)
    for name, part in PARTS.items()
    for goal in part.goals
}
"""What ``make bench-gpu`` must reach."""


def bar_key(record: Record) -> tuple[str, str, str, str | None]:
    """Under what a figure's bar is listed."""
    return record.bench, record.case.partition(" (")[0], record.metric, record.peer


def bar_of(record: Record) -> Bar | None:
    """The bar of a figure, or None where it is only told."""
    key = bar_key(record)
    return BARS.get(key) or GPU_BARS.get(key)


def judge(record: Record) -> Verdict | None:
    """How a figure stands to its bar; None where it has none."""
    bar = bar_of(record)
    if bar is None:
        return None
    if bar.kind == "at most":
        return Verdict(bar, record.value / bar.limit - 1)
    value = record.ratio if bar.kind == "ratio" else record.value
    # A comparison without a ratio reached nothing.
    return Verdict(bar, 1 - (value or 0.0) / bar.limit)
