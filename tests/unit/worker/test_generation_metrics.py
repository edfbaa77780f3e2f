"""Metrics of models that generate, from what the engine reports."""

from __future__ import annotations

from deepseek_engine.client import GeneratorStats, ModelStats
from deepseek_worker.generation_metrics import generation_families

COUNTS = GeneratorStats(
    running=2, waiting=1, blocks_total=8, blocks_used=6, blocks_cached=1, steps=5,
    generated_tokens=40, preemptions=3,
)  # fmt: skip


def samples(stats: dict[str, ModelStats]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in generation_families(stats)
        for sample in family.samples
    }


def test_every_count_has_its_series() -> None:
    found = samples({"llm": ModelStats(generation=COUNTS), "encoder": ModelStats()})
    assert found["deepseek_sequences_running", "llm"] == 2
    assert found["deepseek_sequences_waiting", "llm"] == 1
    assert found["deepseek_kv_cache_usage_ratio", "llm"] == 0.75
    assert found["deepseek_kv_cache_blocks", "llm", "cached"] == 1
    assert found["deepseek_generated_tokens_total", "llm"] == 40
    assert found["deepseek_preemptions_total", "llm"] == 3
    assert found["deepseek_generation_steps_total", "llm"] == 5
    assert not [key for key in found if "encoder" in key]


def test_a_model_whose_cache_is_not_made_yet_uses_nothing_of_it() -> None:
    found = samples({"llm": ModelStats(generation=GeneratorStats())})
    assert found["deepseek_kv_cache_usage_ratio", "llm"] == 0
