"""A memory pool in an engine: batches are put together in it, and answers stay the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from deepseek_engine.engine import Engine
from deepseek_engine.messages import EngineConfig, MemoryStats
from deepseek_engine.pools import BufferPool
from deepseek_engine.tasks.base import Part, stack

from tests.support.engine import arrays, model
from tests.support.twins import rows_of, write_twins

MIB = 1024 * 1024


def memory(engine: Engine) -> MemoryStats:
    found = engine.devices()["cpu"].memory
    assert found is not None
    return found


async def test_answers_with_a_pool_are_those_without(tmp_path: Path) -> None:
    settings = model(
        write_twins(tmp_path / "m"), precision="fp32", max_batch_size=512, max_queue_size=2000
    )
    requests = [rows_of("m", seed=seed, rows=100) for seed in range(6)]
    async with Engine(EngineConfig(models=(settings,), threads=1)) as engine:
        assert memory(engine).pool_bytes == 0
        plain = [await engine.infer(request) for request in requests]
        await engine.set_memory_pool(16)
        pooled = await asyncio.gather(*(engine.infer(request) for request in requests))
        assert memory(engine).pool_bytes == 16 * MIB
    for before, after in zip(plain, pooled, strict=True):
        np.testing.assert_allclose(arrays(before)["OUT"], arrays(after)["OUT"], atol=1e-5)


async def test_the_pool_is_changed_while_requests_run_and_none_fails(tmp_path: Path) -> None:
    settings = model(write_twins(tmp_path / "m"), precision="fp32", max_batch_size=512)
    async with Engine(EngineConfig(models=(settings,), threads=1, memory_pool_mib=4)) as engine:
        done = False

        async def caller() -> None:
            while not done:
                await engine.infer(rows_of("m", rows=64))

        callers = [asyncio.create_task(caller()) for _ in range(3)]
        for size in (8, 1, 16):
            await engine.set_memory_pool(size, shared=size != 1)
            await engine.infer(rows_of("m", rows=64))
        done = True
        await asyncio.gather(*callers)
        assert memory(engine).pool_bytes == 16 * MIB
        # The last batch's array may be dropped a moment after its answer.
        assert memory(engine).allocated_bytes <= 4 * 64 * 256 * 4


def test_a_batch_is_put_together_in_the_pool() -> None:
    pool = BufferPool(4 * MIB)

    def empty(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
        array = pool.take(shape, dtype)
        assert array is not None
        return array

    parts = [Part(0, (0,), {"x": np.full((2, 3), number, np.float32)}) for number in range(3)]
    whole = stack(parts, empty)["x"]
    assert pool.stats().allocated_bytes >= whole.nbytes
    np.testing.assert_array_equal(whole, np.repeat([0, 0, 1, 1, 2, 2], 3).reshape(6, 3))


def test_objects_are_never_put_into_a_pool() -> None:
    def refuse(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
        raise AssertionError("asked for memory")

    parts = [Part(0, (0,), {"x": np.array([[b"a"]], dtype=object)}) for _ in range(2)]
    assert stack(parts, refuse)["x"].tolist() == [[b"a"], [b"a"]]


async def test_a_configured_pool_counts_against_the_limit_of_memory(tmp_path: Path) -> None:
    folder = write_twins(tmp_path / "m", layers=1, memory_bytes=60 * MIB)
    config = EngineConfig(
        models=(model(folder),), threads=1, memory_pool_mib=50, memory_limit_bytes=100 * MIB
    )
    async with Engine(config) as engine:
        info = engine.models()["m"]
    assert info.reason == "InsufficientMemory"
    assert "together 110 MiB" in info.message
