"""``engine.set_memory_pool(size=2048, shared=True)`` as users write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deepseek import ConfigurationError, DeviceError, InferenceEngine
from deepseek_engine.hardware import detect_memory

from tests.support.twins import values, write_twins
from tests.support.worker import WorkerProcess, model

MIB = 1024 * 1024


@pytest.mark.skipif(detect_memory().usable < 3 << 30, reason="needs 3 GiB of free memory")
@pytest.mark.timeout(300)  # a busy virtual machine takes a minute to make 2 GiB of pages
def test_a_pool_of_two_gibibytes(tmp_path: Path) -> None:
    sample = {"IN": values(rows=32)}
    with InferenceEngine(write_twins(tmp_path / "m"), precision="fp32", threads=1) as engine:
        before = engine.infer(sample)["OUT"]
        engine.set_memory_pool(size=2048, shared=True)
        np.testing.assert_array_equal(engine.infer(sample)["OUT"], before)
        memory = engine.device_stats.memory
    assert memory is not None
    assert memory.pool_bytes == 2048 * MIB


def test_a_size_that_cannot_be_had_is_refused_with_the_sum(tmp_path: Path) -> None:
    with InferenceEngine(write_twins(tmp_path / "m", layers=1), threads=1) as engine:
        with pytest.raises(DeviceError, match="1048576000 MiB") as caught:
            engine.set_memory_pool(size=1_048_576_000, shared=True)
        assert caught.value.reason == "InsufficientMemory"
        with pytest.raises(ConfigurationError, match="size of the memory pool is 0"):
            engine.set_memory_pool(size=0)
        assert engine.infer({"IN": values()})["OUT"].shape == (4, 256)


def test_the_metrics_of_a_server_show_its_pool(tmp_path: Path) -> None:
    served = model("m", write_twins(tmp_path / "m", layers=1))
    with WorkerProcess(tmp_path, [served], memory_pool_mib=32) as worker:
        metrics = worker.wait_ready().metrics()
    prefix = "deepseek_device_memory_"
    assert metrics[f'{prefix}pool_bytes{{device="cpu"}}'] == 32 * MIB
    assert metrics[f'{prefix}reserved_bytes{{device="cpu"}}'] == 32 * MIB
    assert metrics[f'{prefix}fragmentation_ratio{{device="cpu"}}'] == 1.0
    assert metrics[f'{prefix}ooms_total{{device="cpu"}}'] == 0
