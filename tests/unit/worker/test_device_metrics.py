"""What a scrape shows of devices and precisions."""

from __future__ import annotations

from collections.abc import Iterable

from deepseek_engine.client import DeviceStats, MemoryStats, ModelStats
from deepseek_worker.device_metrics import device_families, precision_families
from prometheus_client.core import Metric

MIB = 1024 * 1024


def samples(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_load_and_memory_are_shown_by_device() -> None:
    memory = MemoryStats(
        reserved_bytes=100 * MIB,
        allocated_bytes=60 * MIB,
        inactive_split_bytes=10 * MIB,
        largest_free_bytes=25 * MIB,
        alloc_retries=3,
        ooms=1,
        pool_bytes=128 * MIB,
    )
    shown = samples(device_families({"cuda:0": DeviceStats(load=0.5, memory=memory)}))
    prefix = "deepseek_device_memory_"
    assert shown == {
        ("deepseek_device_load_ratio", "cuda:0"): 0.5,
        (f"{prefix}reserved_bytes", "cuda:0"): 100 * MIB,
        (f"{prefix}allocated_bytes", "cuda:0"): 60 * MIB,
        (f"{prefix}inactive_split_bytes", "cuda:0"): 10 * MIB,
        (f"{prefix}largest_free_bytes", "cuda:0"): 25 * MIB,
        (f"{prefix}pool_bytes", "cuda:0"): 128 * MIB,
        (f"{prefix}fragmentation_ratio", "cuda:0"): 0.4,
        (f"{prefix}alloc_retries_total", "cuda:0"): 3,
        (f"{prefix}ooms_total", "cuda:0"): 1,
    }


def test_a_device_without_an_allocator_shows_its_load_only() -> None:
    shown = samples(device_families({"cpu": DeviceStats(load=0.25)}))
    assert shown == {("deepseek_device_load_ratio", "cpu"): 0.25}


def test_nothing_reserved_is_not_fragmented() -> None:
    assert MemoryStats().fragmentation == 0.0


def test_the_precision_that_answers_and_the_switches_are_shown() -> None:
    stats = ModelStats(
        variant_rows={"fp32": 5, "int8-avx2": 7},
        precision="int8",
        precision_switches=3,
        fallbacks={"bf16-torch/dynamic-shape": 2},
    )
    assert samples(precision_families({"m": stats, "new": ModelStats()})) == {
        ("deepseek_variant_rows_total", "m", "fp32"): 5,
        ("deepseek_variant_rows_total", "m", "int8-avx2"): 7,
        ("deepseek_precision_active", "m", "int8"): 1,
        ("deepseek_precision_switches_total", "m"): 3,
        ("deepseek_precision_switches_total", "new"): 0,
        ("deepseek_backend_fallbacks_total", "m", "bf16-torch", "dynamic-shape"): 2,
    }
