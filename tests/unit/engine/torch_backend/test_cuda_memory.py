"""The caching allocator of a GPU: calls to torch over a stand-in for its runtime."""

from __future__ import annotations

import pytest
from deepseek_api.errors import DeviceError
from deepseek_engine.backends.torch.memory import CudaMemory

from tests.support.fake_cuda import MIB, FakeCuda, FakeTorch

GIB = 1024 * MIB


def test_a_pool_is_the_limit_of_the_allocator_and_taken_at_once() -> None:
    fake = FakeTorch(FakeCuda(total=80 * GIB, free=70 * GIB))
    fake.cuda.reserved = 512 * MIB
    memory = CudaMemory(0, torch=fake)
    memory.configure(2 * GIB, shared=True)
    assert fake.settings == ["expandable_segments:True"]
    assert fake.cuda.fraction == {0: 2 / 80}
    assert fake.allocations == [(1536 * MIB, "cuda:0")]
    assert memory.stats().pool_bytes == 2 * GIB


def test_no_pool_lifts_the_limit() -> None:
    fake = FakeTorch()
    memory = CudaMemory(1, torch=fake)
    memory.configure(0, shared=True)
    assert fake.cuda.fraction == {1: 1.0}
    assert not fake.allocations


@pytest.mark.parametrize(
    ("size", "shared", "reason", "words"),
    [
        pytest.param(60 * GIB, True, "InsufficientMemory", "together 52224 MiB", id="not free"),
        pytest.param(1 * GIB, True, "InsufficientMemory", "2048 MiB that the models", id="in use"),
        pytest.param(4 * GIB, False, "Unsupported", "workers of their own", id="not shared"),
    ],
)
def test_a_pool_that_cannot_be_had_is_refused_and_nothing_is_changed(
    size: int, shared: bool, reason: str, words: str
) -> None:
    fake = FakeTorch(FakeCuda(total=80 * GIB, free=48 * GIB))
    fake.cuda.reserved, fake.cuda.allocated = 3 * GIB, 2 * GIB
    with pytest.raises(DeviceError) as caught:
        CudaMemory(0, torch=fake).configure(size, shared=shared)
    assert caught.value.reason == reason
    assert words in str(caught.value)
    assert not fake.settings
    assert not fake.cuda.fraction


def test_the_figures_are_the_allocators_and_the_snapshot_is_taken_once_a_minute() -> None:
    fake, now = FakeTorch(), 0.0
    fake.cuda.stats = {
        "reserved_bytes.all.current": 100,
        "allocated_bytes.all.current": 75,
        "inactive_split_bytes.all.current": 5,
        "num_alloc_retries": 2,
        "num_ooms": 1,
    }
    blocks = [
        {"state": "inactive", "size": 7},
        {"state": "active_allocated", "size": 99},
        {"state": "inactive", "size": 11},
    ]
    fake.cuda.segments = [
        {"device": 0, "blocks": blocks},
        {"device": 1, "blocks": [{"state": "inactive", "size": 1000}]},
    ]
    memory = CudaMemory(0, torch=fake, clock=lambda: now)
    for _ in range(5):
        stats = memory.stats()
    assert (stats.reserved_bytes, stats.allocated_bytes, stats.inactive_split_bytes) == (100, 75, 5)
    assert (stats.alloc_retries, stats.ooms, stats.largest_free_bytes) == (2, 1, 11)
    assert stats.fragmentation == 0.25
    assert fake.cuda.snapshots == 1
    now = 61.0
    memory.stats()
    assert fake.cuda.snapshots == 2
