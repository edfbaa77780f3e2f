"""The walk of a request through the engine, with real models."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest
from deepseek_api.errors import (
    DeepseekError,
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
)
from deepseek_engine.codec import to_tensor
from deepseek_engine.engine import Engine
from deepseek_engine.messages import EngineConfig, InferenceRequest, ModelState, Tensor

from tests.support import bundles
from tests.support.engine import arrays, config, eventually, index, model, rows

STEPS = 30
"""Steps of the slow model: about 0.1 to 0.3 s, long enough to arrange things meanwhile."""


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    return bundles.write_echo(tmp_path / "echo")


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    return bundles.write_slow(tmp_path / "slow", steps=STEPS)


@pytest.fixture
def picky(tmp_path: Path) -> Path:
    return bundles.write_picky(tmp_path / "picky")


async def occupy(engine: Engine, name: str = "slow") -> asyncio.Task[object]:
    """Let the device be busy with one request."""
    task: asyncio.Task[object] = asyncio.create_task(engine.infer(rows(name, 0)))
    await eventually(lambda: engine.stats()[name].running)
    return task


async def test_an_answer_is_bit_exact_and_says_how_it_was_made(echo: Path) -> None:
    values = np.array([np.nan, np.inf, -0.0, 1e-45, 3.5] * 16, dtype=np.float32).reshape(5, 16)
    request = InferenceRequest("echo", (to_tensor("IN", "FP32", values),))
    async with Engine(config(echo)) as engine:
        response = await engine.infer(request)
    (output,) = response.outputs
    assert (output.name, output.datatype, output.shape) == ("OUT", "FP32", (5, 16))
    assert bytes(output.data) == values.tobytes()
    assert (response.variant, response.precision) == ("fp32", "fp32")
    assert response.timing.batch_rows == 5
    assert response.timing.compute_ms > 0


@pytest.mark.parametrize("datatype", list(bundles.ONNX_TYPES))
async def test_every_datatype_passes_through_unchanged(tmp_path: Path, datatype: str) -> None:
    folder = bundles.write_echo_type(tmp_path / "one", datatype)
    if datatype == "BYTES":
        tensor = to_tensor("IN", "BYTES", np.array([["", "é"]], dtype=object))
    elif datatype == "BOOL":
        tensor = Tensor("IN", "BOOL", (1, 2), b"\x00\x01")
    else:
        width = {"FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8}.get(datatype)
        width = width or int(datatype.lstrip("UINT")) // 8
        tensor = Tensor("IN", datatype, (1, 2), bytes(range(1, 2 * width + 1)))
    async with Engine(config(folder)) as engine:
        (output,) = (await engine.infer(InferenceRequest("one", (tensor,)))).outputs
    assert (output.datatype, output.shape) == (datatype, (1, 2))
    assert bytes(output.data) == bytes(tensor.data)


async def test_requests_that_wait_share_a_batch(slow: Path) -> None:
    async with Engine(config(slow)) as engine:
        first = await occupy(engine)
        answers = await asyncio.gather(*(engine.infer(rows("slow", n)) for n in range(5)))
        await first
        stats = engine.stats()["slow"]
    assert [answer.timing.batch_rows for answer in answers] == [5] * 5
    assert [arrays(answer)["OUT"][0, 0] for answer in answers] == [0, 1, 2, 3, 4]
    assert (stats.requests, stats.rows, stats.batches) == (6, 6, 2)
    assert stats.batch_rows == {1: 1, 5: 1}
    assert sum(stats.releases.values()) == 2


async def test_a_batch_is_never_larger_than_the_model_allows(slow: Path) -> None:
    settings = EngineConfig(models=(model(slow, max_batch_size=3),), threads=1)
    async with Engine(settings) as engine:
        first = await occupy(engine)
        await asyncio.gather(*(engine.infer(rows("slow", n)) for n in range(7)))
        await first
        stats = engine.stats()["slow"]
    assert stats.batch_rows == {1: 2, 3: 2}
    assert stats.releases == {"idle": 2, "full": 2}


async def test_only_the_guilty_request_of_a_batch_fails(tmp_path: Path, slow: Path) -> None:
    picky = bundles.write_picky(tmp_path / "picky")
    async with Engine(config(slow, picky)) as engine:
        first = await occupy(engine)
        requests = [engine.infer(index("picky", value)) for value in (0, 1, 99, 2, 3)]
        results = await asyncio.gather(*requests, return_exceptions=True)
        await first
    error = results.pop(2)
    assert isinstance(error, InferenceError)
    assert error.code is ErrorCode.INVALID_ARGUMENT
    assert "idx=99" in error.message
    values = [arrays(answer)["OUT"][0, 0] for answer in results]  # type: ignore[arg-type]
    assert values == [10, 11, 12, 13]


async def test_the_next_good_request_is_answered_after_a_failure(picky: Path) -> None:
    async with Engine(config(picky)) as engine:
        with pytest.raises(InferenceError):
            await engine.infer(index("picky", 99))
        assert arrays(await engine.infer(index("picky", 0)))["OUT"][0, 0] == 10


async def test_rows_that_cannot_be_put_together_fail_their_request_only(tmp_path: Path) -> None:
    # Each row runs alone and comes back as long as its largest number.
    ragged = bundles.write_ragged(tmp_path / "ragged")
    async with Engine(config(ragged)) as engine:
        with pytest.raises(DeepseekError) as caught:
            await asyncio.wait_for(engine.infer(index("ragged", 1, 2)), 10)
        assert caught.value.code is ErrorCode.INTERNAL
        answer = arrays(await asyncio.wait_for(engine.infer(index("ragged", 2, 2)), 10))
    assert answer["OUT"].shape == (2, 2)


async def test_a_client_that_waits_for_each_answer_takes_turns_whatever_the_weights(
    tmp_path: Path,
) -> None:
    lone = bundles.write_slow(tmp_path / "lone", steps=1)
    crowd = bundles.write_slow(tmp_path / "crowd", steps=1)
    models = (
        model(lone, weight=100.0, max_batch_size=1),
        model(crowd, weight=1.0, max_batch_size=1),
    )
    async with Engine(EngineConfig(models=models, threads=1)) as engine:
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                await engine.infer(rows("crowd", 1))

        clients = [asyncio.create_task(client()) for _ in range(4)]
        await eventually(lambda: engine.stats()["crowd"].batches > 2)
        before = engine.stats()["crowd"].batches
        for _ in range(20):
            await engine.infer(rows("lone", 1))
        between = engine.stats()["crowd"].batches - before
        stop.set()
        await asyncio.gather(*clients)
    # The device never waited for the lone client (at least a batch in each of its pauses), and it
    # never waited for more than the batch that ran and one more.
    assert 15 <= between <= 2 * 20 + 2


async def test_more_rows_than_a_batch_are_refused(echo: Path) -> None:
    async with Engine(config(echo)) as engine:
        with pytest.raises(InferenceError, match="33 rows") as caught:
            await engine.infer(rows("echo", range(33)))
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


async def test_an_unknown_model_is_answered_with_the_known_ones(echo: Path, picky: Path) -> None:
    async with Engine(config(echo, picky)) as engine:
        with pytest.raises(InferenceError, match="Models: echo, picky") as caught:
            await engine.infer(rows("nope", 1))
    assert caught.value.code is ErrorCode.NOT_FOUND


async def test_a_model_that_cannot_load_does_not_stop_the_others(
    tmp_path: Path, echo: Path
) -> None:
    broken = bundles.write_echo(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"short")
    async with Engine(config(broken, tmp_path / "missing", echo)) as engine:
        infos = engine.models()
        assert {name: info.state for name, info in infos.items()} == {
            "broken": ModelState.FAILED,
            "missing": ModelState.FAILED,
            "echo": ModelState.READY,
        }
        assert (infos["broken"].reason, infos["missing"].reason) == (
            "TruncatedFile",
            "MissingBundle",
        )
        assert all(str(tmp_path) not in info.message for info in infos.values())
        assert await engine.infer(rows("echo", 1))
        with pytest.raises(InferenceError, match="could not be loaded") as caught:
            await engine.infer(rows("broken", 1))
    assert (caught.value.code, caught.value.reason) == (
        ErrorCode.FAILED_PRECONDITION,
        "TruncatedFile",
    )


async def test_a_graph_that_the_runtime_cannot_read_is_told_without_a_path(tmp_path: Path) -> None:
    folder = bundles.write_echo(tmp_path / "odd")
    parts = bundles.BundleParts(
        task="tensors", inputs=[("IN", "FP32", (-1, 16))], outputs=[("OUT", "FP32", (-1, 16))]
    )
    bundles.write_raw(folder, b"not a graph at all", parts, name="odd")
    async with Engine(config(folder)) as engine:
        info = engine.models()["odd"]
    assert (info.state, info.reason) == (ModelState.FAILED, "UnreadableGraph")
    assert str(tmp_path) not in info.message


async def test_a_model_that_does_not_fit_is_refused_with_the_sum(
    tmp_path: Path, echo: Path
) -> None:
    big = bundles.write_echo(tmp_path / "big", memory_bytes=3 << 30)
    settings = config(echo, big, memory_limit_bytes=2 << 30)
    async with Engine(settings) as engine:
        info = engine.models()["big"]
        assert (info.state, info.reason) == (ModelState.FAILED, "InsufficientMemory")
        assert "3072 MiB" in info.message
        assert "2048 MiB" in info.message
        assert engine.models()["echo"].state is ModelState.READY


@pytest.mark.parametrize(
    ("fields", "reason", "text"),
    [
        ({"device": "cuda:0"}, "DeviceUnavailable", "processor only"),
        ({"device": "tpu"}, "UnknownDevice", "'tpu' does not name a device"),
        ({"precision": "fp8"}, "PrecisionUnavailable", "auto, fp32"),
        ({"digest": "sha256:" + "0" * 64}, "DigestMismatch", "was asked for"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_wish_that_cannot_be_met_is_told(
    echo: Path, fields: dict[str, str], reason: str, text: str
) -> None:
    async with Engine(EngineConfig(models=(model(echo, **fields),), threads=1)) as engine:
        info = engine.models()["echo"]
    assert (info.state, info.reason) == (ModelState.FAILED, reason)
    assert text in info.message


async def test_a_model_is_loading_until_it_has_answered_its_probe(echo: Path) -> None:
    engine = Engine(config(echo))
    engine.start()
    assert engine.models()["echo"].state is ModelState.LOADING
    with pytest.raises(EngineUnavailableError, match="still loading") as caught:
        await engine.infer(rows("echo", 1))
    assert caught.value.reason == "ModelLoading"
    await engine.load()
    info = engine.models()["echo"]
    assert info.state is ModelState.READY
    probe = tuple(Tensor(t.name, t.datatype, t.shape, t.data) for t in info.probe)
    assert await engine.infer(InferenceRequest("echo", probe))
    await engine.close()


async def test_closing_lets_accepted_requests_finish(slow: Path) -> None:
    engine = Engine(config(slow))
    async with engine:
        first = await occupy(engine)
        second = asyncio.create_task(engine.infer(rows("slow", 7)))
        await eventually(lambda: engine.stats()["slow"].waiting)
        closing = asyncio.create_task(engine.close(grace_s=20))
        await asyncio.sleep(0)
        with pytest.raises(EngineUnavailableError, match="stopping"):
            await engine.infer(rows("slow", 1))
        assert await first
        assert arrays(await second)["OUT"][0, 0] == 7
        await closing


async def test_requests_left_at_closing_fail_with_unavailable(slow: Path) -> None:
    engine = Engine(config(slow))
    async with engine:
        first = await occupy(engine)
        second = asyncio.create_task(engine.infer(rows("slow", 1)))
        await eventually(lambda: engine.stats()["slow"].waiting)
        await engine.close()
        results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [EngineUnavailableError] * 2


async def test_an_explicit_priority_overtakes(slow: Path) -> None:
    settings = EngineConfig(models=(model(slow, max_batch_size=1),), threads=1)
    order: list[int] = []

    async def ask(engine: Engine, value: int, priority: int) -> None:
        await engine.infer(rows("slow", value, request={"priority": priority}))
        order.append(value)

    async with Engine(settings) as engine:
        first = await occupy(engine)
        tasks = [asyncio.create_task(ask(engine, n, p)) for n, p in ((1, 0), (2, 2), (3, 1))]
        await asyncio.gather(first, *tasks)
    assert order == [3, 2, 1]


async def test_device_time_is_shared_by_weight(tmp_path: Path) -> None:
    light = bundles.write_slow(tmp_path / "light", steps=1)
    heavy = bundles.write_slow(tmp_path / "heavy", steps=4)
    settings = EngineConfig(
        models=(
            model(light, weight=1.0, max_batch_size=1),
            model(heavy, weight=3.0, max_batch_size=1),
        ),
        threads=1,
    )
    async with Engine(settings) as engine:
        stop = asyncio.Event()

        async def client(name: str) -> None:
            while not stop.is_set():
                await engine.infer(rows(name, 1))

        # Several clients each, so that both models always have work.
        tasks = [asyncio.create_task(client(n)) for n in ("light", "heavy") for _ in range(4)]
        await eventually(
            lambda: sum(s.device_seconds for s in engine.stats().values()) > 2.0, within_s=40
        )
        seconds = {name: stats.device_seconds for name, stats in engine.stats().items()}
        stop.set()
        await asyncio.gather(*tasks)
    assert seconds["heavy"] / sum(seconds.values()) == pytest.approx(0.75, abs=0.05)


async def test_a_variant_that_depends_on_its_batch_runs_row_by_row(
    tmp_path: Path,
) -> None:
    echo = bundles.write_echo(tmp_path / "echo", variant={"rowBatching": "single"})
    async with Engine(config(echo)) as engine:
        answer = await engine.infer(rows("echo", [3, 1, 2]))
        assert engine.stats()["echo"].batch_rows == {1: 3}
    assert arrays(answer)["OUT"][:, 0].tolist() == [3, 1, 2]


async def test_a_failure_of_the_engine_itself_is_logged_and_hidden(
    echo: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Engine(config(echo)) as engine:
        from deepseek_engine.backends.onnxruntime import OnnxRuntimeBackend

        def defect(*_: object, **__: object) -> None:
            raise ZeroDivisionError("/secret/path")

        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(OnnxRuntimeBackend, "run", defect)
            with pytest.raises(DeepseekError) as caught:
                await engine.infer(rows("echo", 1))
        assert caught.value.code is ErrorCode.INTERNAL
        assert "secret" not in str(caught.value)
        assert "ZeroDivisionError" in caplog.text
        assert await engine.infer(rows("echo", 1))
