"""Metrics of models that generate: their sequences, their tokens and their cache.

Why it exists: for such a model a request is no measure of load; how many sequences run, how full
the cache is and how often a sequence had to give its place back is. Only what the engine's
heartbeats say is shown; times are measured where answers leave (`deepseek_worker.metrics`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deepseek_engine.client import GeneratorStats, ModelStats
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

__all__ = ["generation_families"]

_MODEL = ("model",)
_GAUGES = {
    "sequences_running": ("running", "Sequences that hold blocks of the cache."),
    "sequences_waiting": ("waiting", "Sequences that hold no block: new or preempted ones."),
}
_COUNTERS = {
    "generation_steps": ("steps", "Steps that were computed."),
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts that were computed."),
    "cached_tokens": ("cached_tokens", "Tokens of prompts that were reused."),
    "generated_tokens": ("generated_tokens", "Tokens of answers."),
    "preemptions": ("preemptions", "How often a sequence had to give its blocks back."),
    "guessed_tokens": ("guessed_tokens", "Tokens that speculation proposed."),
    "accepted_tokens": ("accepted_tokens", "Those of them that the model confirmed."),
}
_BLOCKS = {"used": "blocks_used", "cached": "blocks_cached", "total": "blocks_total"}


def generation_families(stats: Mapping[str, ModelStats]) -> Iterable[Metric]:
    """All families; only models that generate have samples."""
    known = {name: s.generation for name, s in stats.items() if s.generation is not None}
    for name, (field, text) in _GAUGES.items():
        gauge = GaugeMetricFamily(f"deepseek_{name}", text, labels=_MODEL)
        for model, counts in known.items():
            gauge.add_metric((model,), getattr(counts, field))
        yield gauge
    for name, (field, text) in _COUNTERS.items():
        counter = CounterMetricFamily(f"deepseek_{name}", text, labels=_MODEL)
        for model, counts in known.items():
            counter.add_metric((model,), getattr(counts, field))
        yield counter
    yield from _cache_families(known)


def _cache_families(known: Mapping[str, GeneratorStats]) -> Iterable[Metric]:
    ratio = GaugeMetricFamily(
        "deepseek_kv_cache_usage_ratio",
        "Part of the cache's blocks that running sequences hold, 0 to 1.",
        labels=_MODEL,
    )
    blocks = GaugeMetricFamily(
        "deepseek_kv_cache_blocks", "Blocks of the cache.", labels=("model", "state")
    )
    for model, counts in known.items():
        ratio.add_metric((model,), counts.blocks_used / max(1, counts.blocks_total))
        for state, field in _BLOCKS.items():
            blocks.add_metric((model, state), getattr(counts, field))
    yield ratio
    yield blocks
