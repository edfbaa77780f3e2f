"""The engine process: real processes, a real socket, real models."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from deepseek_api.errors import (
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
    QueueFullError,
)
from deepseek_engine.client import (
    EngineConfig,
    Heartbeat,
    InferenceResponse,
    ModelState,
    RemoteSettings,
)

from tests.support import bundles
from tests.support.engine import (
    arrays,
    byte_rows,
    config,
    connection,
    engine_process,
    eventually,
    model,
    rows,
)

READY_S = 90.0
QUICK = {"heartbeat_s": 0.02}
"""Heartbeats that come often enough to see a request while it runs."""


@pytest.fixture
def socket(tmp_path_factory: pytest.TempPathFactory) -> str:
    # The system allows 107 bytes for the path of a unix socket; pytest's folders can be longer.
    folder = tmp_path_factory.mktemp("s")
    folder.chmod(0o700)
    return str(folder / "e")


async def test_a_request_travels_to_the_process_and_back(tmp_path: Path, socket: str) -> None:
    settings = config(
        bundles.write_echo(tmp_path / "echo"),
        bundles.write_embedding(tmp_path / "embed"),
        socket=socket,
    )
    with engine_process(settings):
        async with connection(socket) as remote:
            infos = await remote.wait_ready(timeout_s=READY_S)
            assert {info.state for info in infos.values()} == {ModelState.READY}
            answer = await remote.infer(rows("echo", [1.5, 2.5]))
            assert arrays(answer)["OUT"][:, 0].tolist() == [1.5, 2.5]
            answer = await remote.infer(byte_rows("embed", "text", b"the cat"))
            assert arrays(answer)["embedding"].shape == (1, 8)
            await eventually(lambda: remote.stats()["echo"].requests == 1)


async def test_a_large_tensor_travels_unchanged(tmp_path: Path, socket: str) -> None:
    settings = config(bundles.write_echo(tmp_path / "echo"), socket=socket)
    models = (msgspec.structs.replace(settings.models[0], max_batch_size=1 << 16,
                                      max_queue_size=1 << 16),)  # fmt: skip
    with engine_process(msgspec.structs.replace(settings, models=models)):
        async with connection(socket) as remote:
            await remote.wait_ready(timeout_s=READY_S)
            request = rows("echo", range(1 << 16))  # 4 MiB
            (output,) = (await remote.infer(request)).outputs
    assert bytes(output.data) == bytes(request.inputs[0].data)


async def test_only_the_owner_may_enter_the_socket(tmp_path: Path, socket: str) -> None:
    with engine_process(config(bundles.write_echo(tmp_path / "echo"), socket=socket)):
        async with connection(socket) as remote:
            await remote.wait_ready(timeout_s=READY_S)
        assert stat.S_IMODE(os.stat(socket).st_mode) == 0o600


async def test_errors_keep_their_code_on_the_way(tmp_path: Path, socket: str) -> None:
    with engine_process(config(bundles.write_echo(tmp_path / "echo"), socket=socket)):
        async with connection(socket) as remote:
            await remote.wait_ready(timeout_s=READY_S)
            with pytest.raises(InferenceError, match="Models: echo") as caught:
                await remote.infer(rows("nope", 1))
            assert caught.value.code is ErrorCode.NOT_FOUND
            with pytest.raises(InferenceError, match="33 rows") as caught:
                await remote.infer(rows("echo", range(33)))
            assert caught.value.code is ErrorCode.INVALID_ARGUMENT
            assert await remote.infer(rows("echo", 1))


async def test_every_pending_request_fails_at_once_when_the_process_is_killed(
    tmp_path: Path, socket: str
) -> None:
    gone = asyncio.Event()
    settings = config(
        bundles.write_slow(tmp_path / "slow", steps=100), socket=socket, options=QUICK
    )
    with engine_process(settings) as process:
        async with connection(socket, on_disconnect=gone.set) as remote:
            await remote.wait_ready(timeout_s=READY_S)
            tasks = [asyncio.create_task(remote.infer(rows("slow", n))) for n in range(30)]
            await eventually(
                lambda: (
                    remote.heartbeat is not None and remote.heartbeat.device_busy_since is not None
                )
            )
            process.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert time.monotonic() - killed < 1.0
            assert {type(result) for result in results} == {EngineUnavailableError}
            assert gone.is_set()
            assert not remote.models()
            with pytest.raises(EngineUnavailableError, match="not running"):
                await remote.infer(rows("slow", 1))


async def test_the_connection_comes_back_with_a_new_process(tmp_path: Path, socket: str) -> None:
    settings = config(bundles.write_echo(tmp_path / "echo"), socket=socket)
    async with connection(socket) as remote:
        for _ in range(2):
            with engine_process(settings) as process:
                await remote.wait_ready(timeout_s=READY_S)
                assert await remote.infer(rows("echo", 1))
                process.kill()
                await eventually(lambda: not remote.connected)


async def test_loading_is_visible_and_a_broken_model_is_told(tmp_path: Path, socket: str) -> None:
    good = bundles.write_echo(tmp_path / "good")
    cut = bundles.write_echo(tmp_path / "cut")
    os.truncate(cut / "model.onnx", 10)
    settings = config(cut, good, socket=socket)
    wrong = msgspec.structs.replace(settings.models[1], name="wrong", digest="sha256:" + "0" * 64)
    settings = msgspec.structs.replace(settings, models=(*settings.models, wrong))
    beats: list[Heartbeat] = []
    with engine_process(settings):
        async with connection(socket, on_heartbeat=beats.append) as remote:
            infos = await remote.wait_ready(timeout_s=READY_S)
            assert {name: (info.state, info.reason) for name, info in infos.items()} == {
                "cut": (ModelState.FAILED, "TruncatedFile"),
                "good": (ModelState.READY, ""),
                "wrong": (ModelState.FAILED, "DigestMismatch"),
            }
            assert all(str(tmp_path) not in info.message for info in infos.values())
            assert await remote.infer(rows("good", 1))
            count = len(beats)
            await eventually(lambda: len(beats) >= count + 2)
    assert beats[-1].sent_at - beats[-2].sent_at == pytest.approx(0.5, abs=0.4)


def started_loading(process: subprocess.Popen[bytes], socket: str) -> None:
    """Wait until the socket is there: it is bound before the first model is loaded."""
    deadline = time.monotonic() + READY_S
    while not os.path.exists(socket):
        assert process.poll() is None
        assert time.monotonic() < deadline
        os.sched_yield()


def test_sigterm_during_load_ends_the_process_promptly(tmp_path: Path, socket: str) -> None:
    # Warming this model takes far longer than the test may.
    settings = config(bundles.write_slow(tmp_path / "slow", steps=100_000), socket=socket)
    with engine_process(settings) as process:
        started_loading(process, socket)
        begin = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - begin < 2.0
    assert not os.path.exists(socket)


@pytest.mark.parametrize("steps", [1, 100_000], ids=["serving", "loading"])
def test_the_end_of_stdin_ends_the_process(tmp_path: Path, socket: str, steps: int) -> None:
    settings = config(bundles.write_slow(tmp_path / "slow", steps=steps), socket=socket)
    with engine_process(settings) as process:
        started_loading(process, socket)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0
        process.stdin = None  # communicate() must not flush it again
    assert not os.path.exists(socket)


async def test_sigterm_lets_accepted_requests_finish(tmp_path: Path, socket: str) -> None:
    settings = config(
        bundles.write_slow(tmp_path / "slow", steps=60), socket=socket, options={"grace_s": 120}
    )
    with engine_process(settings) as process:
        async with connection(socket) as remote:
            await remote.wait_ready(timeout_s=READY_S)
            tasks = [asyncio.create_task(remote.infer(rows("slow", n))) for n in range(3)]
            # A second answer over the same connection proves that the three were received.
            with pytest.raises(InferenceError):
                await remote.infer(rows("nope", 1))
            process.terminate()
            answers = await asyncio.gather(*tasks)
            assert [arrays(answer)["OUT"][0, 0] for answer in answers] == [0, 1, 2]
        assert await asyncio.to_thread(process.wait, 10) == 0


async def test_a_cancelled_request_leaves_the_queue_of_the_process(
    tmp_path: Path, socket: str
) -> None:
    settings = config(bundles.write_slow(tmp_path / "slow", steps=60), socket=socket, options=QUICK)
    with engine_process(settings):
        async with connection(socket) as remote:
            await remote.wait_ready(timeout_s=READY_S)
            first = asyncio.create_task(remote.infer(rows("slow", 1)))
            await eventually(lambda: remote.stats()["slow"].running == 1)
            second = asyncio.create_task(remote.infer(rows("slow", 2)))
            await eventually(lambda: remote.stats()["slow"].waiting == 1)
            second.cancel()
            await eventually(lambda: remote.stats()["slow"].waiting == 0)
            assert await first
            await eventually(lambda: remote.stats()["slow"].requests == 1)
            assert remote.stats()["slow"].rows == 1
            assert remote.in_flight == 0


async def test_the_requests_of_a_front_end_that_died_are_dropped(
    tmp_path: Path, socket: str
) -> None:
    slow = model(bundles.write_slow(tmp_path / "slow", steps=20), max_batch_size=1)
    settings = EngineConfig(models=(slow,), socket=socket, threads=1, options=QUICK)
    with engine_process(settings):
        async with connection(socket) as stays:
            await stays.wait_ready(timeout_s=READY_S)
            async with connection(socket) as dies:
                await dies.wait_ready(timeout_s=READY_S)
                tasks = [asyncio.create_task(dies.infer(rows("slow", n))) for n in range(40)]
                await eventually(lambda: stays.stats()["slow"].waiting > 20)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} == {EngineUnavailableError}
            await eventually(lambda: stays.stats()["slow"].waiting == 0)
            assert await stays.infer(rows("slow", 1))
            assert stays.stats()["slow"].rows < 30


async def test_requests_in_flight_are_bounded(tmp_path: Path, socket: str) -> None:
    settings = config(bundles.write_slow(tmp_path / "slow", steps=50), socket=socket)
    bounds = RemoteSettings(max_in_flight=3, max_in_flight_bytes=10_000)
    with engine_process(settings):
        async with connection(socket, settings=bounds) as remote:
            await remote.wait_ready(timeout_s=READY_S)
            tasks = [asyncio.create_task(remote.infer(rows("slow", n))) for n in range(4)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [InferenceResponse] * 3 + [
                QueueFullError
            ]
            with pytest.raises(QueueFullError):
                await remote.infer(rows("slow", range(200)))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param(b"", "engine configuration", id="nothing"),
        pytest.param(b"{}\n", "engine configuration", id="field missing"),
        pytest.param(b'{"models": [], "socket": ""}\n', "socket", id="no socket"),
        pytest.param(b'{"models": [], "socket": "/no/such/folder/e"}\n', "socket", id="no folder"),
        pytest.param(
            b'{"models": [], "socket": "x", "options": {"log_level": "LOUD"}}\n', "LOUD", id="level"
        ),
    ],
)
def test_a_wrong_configuration_ends_the_process_with_one_sentence(line: bytes, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deepseek_engine"], input=line, capture_output=True, timeout=30
    )
    assert done.returncode == 2
    (log,) = [json.loads(entry) for entry in done.stderr.splitlines()]
    assert text in log["message"]
    assert log["level"] == "ERROR"
    assert "exception" not in log


HOOK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "timm", "onnx"}:
            raise ImportError("the serving path imported " + name)

sys.meta_path.insert(0, Refuse())
"""


async def test_serving_imports_neither_torch_nor_transformers_and_stays_small(
    tmp_path: Path, socket: str
) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    settings = config(
        bundles.write_embedding(tmp_path / "embed"),
        bundles.write_classifier(tmp_path / "colours"),
        socket=socket,
    )
    path = os.pathsep.join([str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
    with engine_process(settings, environment={"PYTHONPATH": path}) as process:
        async with connection(socket) as remote:
            infos = await remote.wait_ready(timeout_s=READY_S)
            assert [info.state for info in infos.values()] == [ModelState.READY] * 2
            assert await remote.infer(byte_rows("embed", "text", b"the cat"))
            resident = psutil.Process(process.pid).memory_info().rss
    # Both runtimes, two tiny models; the quickstart's models come on top.
    assert resident < 200 * 1024 * 1024
