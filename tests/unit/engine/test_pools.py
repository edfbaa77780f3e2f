"""Buffers whose pages are there before they are needed."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek_api.errors import ConfigurationError, DeviceError
from deepseek_engine.device_memory import MIB, HostMemory, check_pool_size, open_device_memory
from deepseek_engine.pools import BufferPool, Buffers
from hypothesis import given, settings
from hypothesis import strategies as st


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_arrays_do_not_overlap_and_are_aligned() -> None:
    pool = BufferPool(1 * MIB)
    first, second = pool.take((100, 7), np.float32), pool.take((3,), np.int64)
    assert first is not None
    assert second is not None
    first[:], second[:] = 1.0, 2
    assert first.sum() == 700
    assert second.tolist() == [2, 2, 2]
    assert first.ctypes.data % 64 == second.ctypes.data % 64 == 0


def test_a_piece_returns_when_its_last_view_is_gone() -> None:
    pool = BufferPool(1 * MIB)
    array = pool.take((256, 1024), np.float32)
    assert array is not None
    view: Any = memoryview(array[10:20])  # type: ignore[arg-type]
    assert pool.take((256, 1024), np.float32) is None
    del array
    assert pool.take((256, 1024), np.float32) is None
    del view
    assert pool.take((256, 1024), np.float32) is not None


def test_the_figures_tell_free_pieces_from_free_bytes() -> None:
    pool = BufferPool(8 * MIB)
    pieces = [pool.take((2 * MIB,), np.uint8) for _ in range(4)]
    assert pool.stats().allocated_bytes == 8 * MIB
    assert pool.stats().fragmentation == 0.0
    del pieces[2], pieces[0]
    stats = pool.stats()
    assert stats.allocated_bytes == 4 * MIB
    assert stats.largest_free_bytes == 2 * MIB
    assert stats.inactive_split_bytes == 2 * MIB
    assert stats.fragmentation == 0.5
    assert pool.take((3 * MIB,), np.uint8) is None
    assert pool.stats().ooms == 1


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(1, 300_000), st.integers(-20, -1)), min_size=1, max_size=80))
def test_whatever_is_taken_and_returned_nothing_is_lost(steps: list[int]) -> None:
    pool = BufferPool(2 * MIB)
    held: list[Any] = []
    for step in steps:
        if step > 0:
            held.append(pool.take((step,), np.uint8))
            if held[-1] is None:
                held.pop()
            else:
                held[-1][:] = step % 251
        elif held:
            del held[step % len(held)]
        assert all((array == len(array) % 251).all() for array in held)
        assert pool.stats().allocated_bytes == sum(-(-len(array) // 64) * 64 for array in held)
    held.clear()
    assert pool.stats().largest_free_bytes == 2 * MIB


def test_a_large_array_from_the_pool_costs_no_page_faults() -> None:
    buffers = Buffers()
    shape = (40 * MIB,)

    buffers.pool = BufferPool(64 * MIB)
    for _ in range(3):
        buffers.empty(shape, np.uint8).fill(1)
    before = faults()
    for _ in range(5):
        buffers.empty(shape, np.uint8).fill(1)
    # Five times 40 MiB are 51,200 small pages or 100 huge ones.
    assert faults() - before < 50


def test_small_arrays_and_arrays_that_do_not_fit_come_from_the_system() -> None:
    buffers = Buffers()
    buffers.pool = BufferPool(1 * MIB)
    small, large = buffers.empty((10,), np.float32), buffers.empty((2 * MIB,), np.uint8)
    assert small.shape == (10,)
    assert large.shape == (2 * MIB,)
    assert buffers.pool.stats().allocated_bytes == 0


@pytest.mark.parametrize("size", [0, -1, 1.5, "2048", True, None], ids=repr)
def test_a_size_that_is_no_number_of_mib_is_refused(size: object) -> None:
    with pytest.raises(ConfigurationError, match="size of the memory pool"):
        check_pool_size(size)  # type: ignore[arg-type]


def meminfo(root: Path, mib: int) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {mib * 1024} kB\n")
    return root


@pytest.mark.parametrize(
    ("models", "shared", "size", "words"),
    [
        pytest.param(1, True, 100, "A memory pool of 100 MiB", id="too large"),
        pytest.param(
            3, False, 20, "3 memory pools of 20 MiB cannot be had: that is 60", id="one for each"
        ),
    ],
)
def test_a_pool_that_does_not_fit_is_refused_with_the_sum(
    tmp_path: Path, models: int, shared: bool, size: int, words: str
) -> None:
    host = HostMemory(root=meminfo(tmp_path, 110))
    for number in range(models):
        host.buffers(str(number))
    host.configure(4 * MIB, shared=True)
    with pytest.raises(DeviceError, match=words) as caught:
        host.configure(size * MIB, shared=shared)
    assert caught.value.reason == "InsufficientMemory"
    # What was there stays.
    assert host.stats().pool_bytes == 4 * MIB
    assert host.buffers("0").pool is not None


def test_models_share_a_pool_or_have_their_own(tmp_path: Path) -> None:
    host = HostMemory(root=meminfo(tmp_path, 1000))
    first, second = host.buffers("a"), host.buffers("b")
    host.configure(2 * MIB, shared=True)
    assert first.pool is second.pool
    host.configure(2 * MIB, shared=False)
    assert first.pool is not second.pool
    assert host.buffers("c").pool is not None
    assert host.stats().pool_bytes == 6 * MIB
    host.configure(0, shared=True)
    assert first.pool is None
    assert host.stats().pool_bytes == 0


def test_a_device_without_a_pool_is_told() -> None:
    with pytest.raises(DeviceError, match="'npu' cannot be managed"):
        open_device_memory("npu")
