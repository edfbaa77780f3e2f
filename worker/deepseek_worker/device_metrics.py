"""Metrics of devices: their load, their memory, and the precision that answers under it.

Why it exists: a person who sees answers of another precision wants to see the load that caused it,
and memory that is reserved but not usable shows long before it runs out. Only what the engine's
heartbeats say is shown; nothing is measured here. The series are the same on every device, so that
a dashboard can be tried without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deepseek_engine.client import DeviceStats, MemoryStats, ModelStats
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

__all__ = ["device_families", "precision_families"]

_DEVICE = ("device",)
_MEMORY_GAUGES = {
    "reserved_bytes": "Memory that the allocator has taken from the system.",
    "allocated_bytes": "The part of the reserved memory that is in use.",
    "inactive_split_bytes": "Free parts of blocks that are partly in use.",
    "largest_free_bytes": "Largest request that needs no new memory from the system.",
    "pool_bytes": "Configured size of the memory pool; 0 when none is configured.",
}
_MEMORY_COUNTERS = {
    "alloc_retries": "How often the allocator had to free its cache and try again.",
    "ooms": "How often there was not enough memory.",
}


def device_families(devices: Mapping[str, DeviceStats]) -> Iterable[Metric]:
    """Load and memory of every device; a device without an allocator of its own has no memory."""
    load = GaugeMetricFamily(
        "deepseek_device_load_ratio", "Busy share of the last seconds, 0 to 1.", labels=_DEVICE
    )
    for name, device in devices.items():
        load.add_metric((name,), device.load)
    yield load
    memories = {name: d.memory for name, d in devices.items() if d.memory is not None}
    yield from _memory_families(memories)


def _memory_families(memories: Mapping[str, MemoryStats]) -> Iterable[Metric]:
    for field, text in _MEMORY_GAUGES.items():
        gauge = GaugeMetricFamily(f"deepseek_device_memory_{field}", text, labels=_DEVICE)
        for name, memory in memories.items():
            gauge.add_metric((name,), getattr(memory, field))
        yield gauge
    ratio = GaugeMetricFamily(
        "deepseek_device_memory_fragmentation_ratio",
        "The part of the reserved memory that is not in use, 0 to 1.",
        labels=_DEVICE,
    )
    for name, memory in memories.items():
        ratio.add_metric((name,), memory.fragmentation)
    yield ratio
    for field, text in _MEMORY_COUNTERS.items():
        counter = CounterMetricFamily(f"deepseek_device_memory_{field}", text, labels=_DEVICE)
        for name, memory in memories.items():
            counter.add_metric((name,), getattr(memory, field))
        yield counter


def precision_families(stats: Mapping[str, ModelStats]) -> Iterable[Metric]:
    """Which copy of a model computed how much, and which computes next."""
    rows = CounterMetricFamily(
        "deepseek_variant_rows",
        "Rows by the variant of the bundle that computed them.",
        labels=("model", "variant"),
    )
    active = GaugeMetricFamily(
        "deepseek_precision_active",
        "1 for the precision at which the next batch of the model runs.",
        labels=("model", "precision"),
    )
    switches = CounterMetricFamily(
        "deepseek_precision_switches",
        "How often the device's load lowered the model's precision or let it be raised again.",
        labels=("model",),
    )
    fallbacks = CounterMetricFamily(
        "deepseek_backend_fallbacks",
        "Batches that did not run the back end's fastest way, for example without a CUDA graph.",
        labels=("model", "variant", "reason"),
    )
    for name, counters in stats.items():
        for key, count in counters.fallbacks.items():
            variant, _, reason = key.partition("/")
            fallbacks.add_metric((name, variant, reason), count)
        for variant, count in counters.variant_rows.items():
            rows.add_metric((name, variant), count)
        if counters.precision:
            active.add_metric((name, counters.precision), 1)
        switches.add_metric((name,), counters.precision_switches)
    return (rows, active, switches, fallbacks)
