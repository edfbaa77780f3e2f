"""A model that does not fit is refused before it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from deepseek_api.errors import DeviceError, ErrorCode
from deepseek_engine.hardware import Memory
from deepseek_engine.memory import check_memory, estimate_memory

from tests.support import bundles

MIB = 1024 * 1024
PLENTY = Memory(total=1 << 40, available=1 << 40, limit=None, limit_available=None)


@pytest.mark.parametrize(
    ("need", "taken", "memory", "limit", "texts"),
    [
        pytest.param(
            300 * MIB,
            200 * MIB,
            PLENTY,
            400 * MIB,
            ("300 MiB", "200 MiB", "500 MiB", "400 MiB"),
            id="configured limit",
        ),
        pytest.param(
            300 * MIB,
            0,
            Memory(total=1 << 40, available=350 * MIB, limit=None, limit_available=None),
            0,
            ("300 MiB", "364 MiB", "the machine has 350 MiB"),
            id="machine",
        ),
        pytest.param(
            300 * MIB,
            0,
            Memory(total=1 << 40, available=1 << 40, limit=512 * MIB, limit_available=200 * MIB),
            0,
            ("300 MiB", "its memory limit leaves 200 MiB"),
            id="control group",
        ),
    ],
)
def test_the_refusal_shows_the_sum(
    need: int, taken: int, memory: Memory, limit: int, texts: tuple[str, ...]
) -> None:
    with pytest.raises(DeviceError) as caught:
        check_memory(name="big", need=need, taken=taken, memory=memory, limit_bytes=limit)
    error = caught.value
    assert (error.code, error.reason) == (ErrorCode.RESOURCE_EXHAUSTED, "InsufficientMemory")
    assert all(text in error.message for text in ("'big'", *texts)), error.message
    assert error.hint


@pytest.mark.parametrize(
    ("need", "taken", "limit"),
    [
        pytest.param(300 * MIB, 100 * MIB, 400 * MIB, id="exactly the limit"),
        pytest.param(300 * MIB, 1 << 50, 0, id="no limit"),
    ],
)
def test_a_model_that_fits_is_accepted(need: int, taken: int, limit: int) -> None:
    check_memory(name="m", need=need, taken=taken, memory=PLENTY, limit_bytes=limit)


@pytest.mark.parametrize("claimed", [0, 10_000_000])
def test_the_estimate_is_at_least_the_files(tmp_path: Path, claimed: int) -> None:
    folder = bundles.write_echo(tmp_path / "echo", memory_bytes=claimed)
    (variant,) = bundles.read_manifest(folder).variants
    assert estimate_memory(variant) == max(claimed, (folder / "model.onnx").stat().st_size)
