"""One model at two precisions in the engine: real variants, real load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from deepseek_api.errors import DeepseekError, DeviceError, PrecisionError
from deepseek_engine.batch_lane import BatchLane
from deepseek_engine.engine import Engine
from deepseek_engine.messages import AutoPrecision, EngineConfig, InferenceResponse, ModelState

from tests.support import bundles
from tests.support.engine import arrays, eventually, model
from tests.support.twins import rows_of, write_twins

QUICK = AutoPrecision(threshold=0.1, resume=0.05, dwell_s=0.0)
"""Any work is load, and half a second of rest is none."""


def settings(folder: Path, **fields: object) -> EngineConfig:
    limits = {"memory_limit_bytes": fields.pop("memory_limit_bytes", 0)}
    return EngineConfig(
        models=(model(folder, precision="fp32", **fields),),
        threads=1,
        load_window_s=0.3,
        **limits,  # type: ignore[arg-type]
    )


async def load_until_lowered(engine: Engine, name: str) -> list[InferenceResponse]:
    """Send requests without a pause until the precision is lowered; gives all answers."""
    answers: list[InferenceResponse] = []

    async def caller(seed: int) -> None:
        while not (answers and answers[-1].precision == "int8"):
            answers.append(await engine.infer(rows_of(name, seed=seed, rows=32)))

    async with asyncio.timeout(30):
        await asyncio.gather(*(caller(seed) for seed in range(4)))
    return answers


async def rest(engine: Engine, name: str) -> None:
    """Wait until the engine has seen that the load is gone."""

    def raised() -> bool:
        engine.heartbeat()
        return engine.stats()[name].precision == "fp32"

    await eventually(raised)


async def test_under_load_answers_come_from_the_lower_precision_and_then_return(
    tmp_path: Path,
) -> None:
    folder = write_twins(tmp_path / "m", layers=12)
    async with Engine(settings(folder, auto_precision=QUICK)) as engine:
        before = await engine.infer(rows_of("m", seed=7))
        answers = await load_until_lowered(engine, "m")
        stats = engine.stats()["m"]
        busy = engine.devices()["cpu"].load
        await rest(engine, "m")
        after = await engine.infer(rows_of("m", seed=7))
        assert engine.devices()["cpu"].load < busy
    assert (before.variant, before.precision) == ("fp32", "fp32")
    assert answers[-1].variant == "int8"
    assert {answer.precision for answer in answers} <= {"fp32", "int8"}
    assert set(stats.variant_rows) == {"fp32", "int8"}
    assert sum(stats.variant_rows.values()) == stats.rows
    assert stats.precision_switches >= 2
    assert after.precision == "fp32"
    np.testing.assert_array_equal(arrays(after)["OUT"], arrays(before)["OUT"])


async def test_both_precisions_give_nearly_the_same_answer(tmp_path: Path) -> None:
    folder = write_twins(tmp_path / "m")
    async with Engine(settings(folder, auto_precision=QUICK)) as engine:
        high = arrays(await engine.infer(rows_of("m", seed=3, rows=32)))["OUT"]
        await load_until_lowered(engine, "m")
        answer = await engine.infer(rows_of("m", seed=3, rows=32))
    assert answer.precision == "int8"
    low = arrays(answer)["OUT"]
    assert 1e-4 < np.linalg.norm(low - high) / np.linalg.norm(high) < 0.1


async def test_it_is_set_and_taken_back_while_requests_run_and_none_fails(tmp_path: Path) -> None:
    folder = write_twins(tmp_path / "m", memory_bytes=10_000_000)
    async with Engine(settings(folder)) as engine:
        done = False

        async def caller() -> int:
            count = 0
            while not done:
                await engine.infer(rows_of("m"))
                count += 1
            return count

        callers = [asyncio.create_task(caller()) for _ in range(3)]
        alone = engine.models()["m"].memory_bytes
        for _ in range(5):
            await engine.set_auto_precision("m", QUICK)
            both = engine.models()["m"].memory_bytes
            await eventually(lambda: engine.stats()["m"].precision == "int8")
            await engine.set_auto_precision("m", None)
            assert engine.stats()["m"].precision == "fp32"
        assert engine.models()["m"].memory_bytes == alone
        done = True
        counts = await asyncio.gather(*callers)
    assert both == 2 * alone
    assert min(counts) > 0


async def test_other_thresholds_keep_the_copy(tmp_path: Path) -> None:
    async with Engine(settings(write_twins(tmp_path / "m"), auto_precision=QUICK)) as engine:
        lane = engine._lanes["m"]
        assert isinstance(lane, BatchLane)
        assert lane.twin is not None
        copy = lane.twin.loaded
        await engine.set_auto_precision("m", AutoPrecision(threshold=0.9))
        assert lane.twin.loaded is copy
        assert lane.twin.switch.policy.threshold == 0.9


async def test_a_copy_that_does_not_fit_is_refused_with_the_sum(tmp_path: Path) -> None:
    mib = 1024 * 1024
    folder = write_twins(tmp_path / "m", layers=1, memory_bytes=60 * mib)
    async with Engine(settings(folder, memory_limit_bytes=100 * mib)) as engine:
        with pytest.raises(DeviceError) as caught:
            await engine.set_auto_precision("m", QUICK)
        assert caught.value.reason == "InsufficientMemory"
        for text in ("copy 'int8' of the model 'm'", "60 MiB", "120 MiB", "100 MiB"):
            assert text in caught.value.message
        assert (await engine.infer(rows_of("m"))).precision == "fp32"


@pytest.mark.parametrize("required", [True, False], ids=["required", "where it is possible"])
async def test_a_model_without_a_lower_precision(tmp_path: Path, required: bool) -> None:
    echo = bundles.write_echo(tmp_path / "echo")
    policy = AutoPrecision(required=required)
    async with Engine(settings(echo, auto_precision=policy)) as engine:
        info = engine.models()["echo"]
    if required:
        assert (info.state, info.reason) == (ModelState.FAILED, "NoLowerPrecision")
        assert info.memory_bytes == 0
    else:
        assert info.state is ModelState.READY


async def test_a_copy_whose_rows_batch_differently_is_refused(tmp_path: Path) -> None:
    folder = write_twins(tmp_path / "m", layers=1, int8={"rowBatching": "single"})
    async with Engine(settings(folder)) as engine:
        with pytest.raises(PrecisionError) as caught:
            await engine.set_auto_precision("m", QUICK)
    assert caught.value.reason == "DifferentTensors"


async def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with Engine(settings(write_twins(tmp_path / "m", layers=1))) as engine:
        with pytest.raises(DeepseekError, match="no model 'x'"):
            await engine.set_auto_precision("x", QUICK)
