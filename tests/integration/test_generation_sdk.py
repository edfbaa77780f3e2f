"""A real, small model that generates: worker process, SDK, command line, OpenAI's interface."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepseek
import pytest
from deepseek import _gateway

from tests.support.generating import alone, request
from tests.support.real_generator import write_llama
from tests.support.worker import WorkerProcess, model, until

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
PROMPT = "Hello"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "llama")


@pytest.fixture(scope="module")
def worker(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    models = [model("llama", bundle, generation={"kv_cache_blocks": 64})]
    with WorkerProcess(tmp_path_factory.mktemp("worker"), models) as running:
        yield running.wait_ready()


@pytest.fixture(scope="module")
def expected(bundle: Path) -> list[int]:
    """What the decoder generates with nothing around it but its generator."""
    from deepseek_engine.generation.weights import load_decoder
    from tokenizers import Tokenizer

    prompt = Tokenizer.from_file(str(bundle / "tokenizer.json")).encode(PROMPT).ids
    return alone(load_decoder(bundle), request(**GREEDY), prompt).tokens


def test_greedy_tokens_over_grpc_are_those_of_the_decoder(
    worker: WorkerProcess, expected: list[int]
) -> None:
    with deepseek.Client(worker.target) as client:
        chunks = list(client.generate("llama", PROMPT, **GREEDY))
        whole = client.complete("llama", PROMPT, **GREEDY)
    assert [token for chunk in chunks for token in chunk.token_ids] == expected
    assert "".join(chunk.text for chunk in chunks) == whole
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].parameters["completion_tokens"] == 12


async def test_the_asynchronous_client_gets_the_same(
    worker: WorkerProcess, expected: list[int]
) -> None:
    async with deepseek.AsyncClient(worker.target) as client:
        chunks = [chunk async for chunk in client.generate("llama", PROMPT, **GREEDY)]
    assert [token for chunk in chunks for token in chunk.token_ids] == expected


def test_leaving_a_loop_ends_the_answer(worker: WorkerProcess) -> None:
    with deepseek.Client(worker.target) as client:
        for _ in client.generate("llama", PROMPT, max_tokens=200, ignore_eos=True):
            break
        gauge = 'deepseek_requests_running{model="llama"}'
        until(lambda: worker.metrics()[gauge] == 0, what="no request runs")


@pytest.mark.parametrize(
    ("sampling", "says"),
    [({"max_tokens": 1000}, "context has 256"), ({"temperature": -1.0}, "temperature is -1")],
    ids=["too long", "temperature"],
)
def test_a_refusal_is_an_exception_with_the_servers_sentence(
    worker: WorkerProcess, sampling: Any, says: str
) -> None:
    with (
        deepseek.Client(worker.target) as client,
        pytest.raises(deepseek.InferenceError, match=says) as caught,
    ):
        client.complete("llama", PROMPT, **sampling)
    assert caught.value.code is deepseek.ErrorCode.INVALID_ARGUMENT


def test_an_answer_matches_a_schema(worker: WorkerProcess) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    with deepseek.Client(worker.target) as client:
        text = client.complete("llama", PROMPT, max_tokens=100, seed=1, json_schema=schema)
        assert json.loads(text)["a"] in (True, False)
        with pytest.raises(deepseek.InferenceError) as caught:
            client.complete("llama", PROMPT, regex="(")
    assert caught.value.code is deepseek.ErrorCode.INVALID_ARGUMENT


def test_an_unknown_setting_is_refused_before_anything_is_sent() -> None:
    unknown: Any = {"temprature": 1.0}
    with (
        deepseek.Client("127.0.0.1:1") as client,
        pytest.raises(deepseek.ConfigurationError, match="temprature"),
    ):
        client.complete("llama", PROMPT, **unknown)


def test_metrics_tell_of_tokens_and_cache(worker: WorkerProcess) -> None:
    with deepseek.Client(worker.target) as client:
        client.complete("llama", PROMPT, **GREEDY)

    def told() -> bool:
        metrics = worker.metrics()
        generated = metrics['deepseek_generated_tokens_total{model="llama"}']
        return generated >= 12 and metrics['deepseek_kv_cache_usage_ratio{model="llama"}'] == 0

    until(told, what="the heartbeat")
    metrics = worker.metrics()
    assert metrics['deepseek_time_to_first_token_seconds_count{model="llama"}'] >= 1
    assert metrics['deepseek_kv_cache_blocks{model="llama",state="total"}'] == 64


def test_the_command_line_streams_to_the_terminal(worker: WorkerProcess) -> None:
    command = [sys.executable, "-m", "deepseek", "generate", "llama", PROMPT]
    options = ["--url", worker.target, "--max-tokens", "5", "--temperature", "0", "-o", "json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["token_ids"]) == 5
    assert answer["finish_reason"] == "length"


def test_the_engine_in_this_process_generates_the_same(bundle: Path, expected: list[int]) -> None:
    with deepseek.InferenceEngine(bundle, threads=1) as engine:
        chunks = list(engine.generate(PROMPT, **GREEDY))
        assert [token for chunk in chunks for token in chunk.token_ids] == expected
        for _ in engine.generate(PROMPT, max_tokens=100):
            break


def test_openai_completions_through_the_gateway(worker: WorkerProcess) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gateway = _gateway.Gateway(worker=worker.target, host="127.0.0.1", port=port, log_level="info")
    gateway.start()
    try:
        until(lambda: _post(port, "/v1/completions")[0] == 200, what="the gateway")
        body = json.loads(_post(port, "/v1/completions")[1])
        with deepseek.Client(worker.target) as client:
            text = client.complete("llama", PROMPT, **GREEDY)
        assert body["choices"][0]["text"] == text
        assert body["usage"]["completion_tokens"] == 12
        status, stream = _post(port, "/v1/completions", stream=True)
        lines = [line[6:] for line in stream.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        parts = [json.loads(line)["choices"][0]["text"] for line in lines[:-1]]
        assert "".join(parts) == text
        chat = {"messages": [{"role": "user", "content": "Hi"}], "prompt": None}
        status, body = _post(port, "/v1/chat/completions", **chat)
        assert status == 400
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
    finally:
        process = gateway._process
        gateway.stop()
    assert process is not None
    assert process.poll() is not None


def _post(port: int, path: str, **fields: Any) -> tuple[int, str]:
    body = {"model": "llama", "prompt": PROMPT, **GREEDY, **fields}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        content = json.dumps({name: value for name, value in body.items() if value is not None})
        connection.request("POST", path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except OSError:
        return 0, ""
    finally:
        connection.close()


def test_without_the_gateway_the_option_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(deepseek.ConfigurationError, match="not installed") as caught:
        _gateway.check_gateway()
    assert "deepseek[openai]" in str(caught.value)


def test_a_killed_engine_fails_streams_and_a_stopped_worker_finishes_them(
    bundle: Path, tmp_path: Path
) -> None:
    models = [model("llama", bundle, generation={"kv_cache_blocks": 64})]
    with (
        WorkerProcess(tmp_path, models) as worker,
        deepseek.Client(worker.wait_ready().target) as client,
    ):
        asked: dict[str, Any] = {"max_tokens": 200, "ignore_eos": True}
        lost = client.generate("llama", PROMPT, **asked)
        next(lost)
        os.kill(worker.engine_pid, signal.SIGKILL)
        with pytest.raises(deepseek.EngineUnavailableError):
            list(lost)
        until(lambda: not client.ready(), what="the loss is known")
        worker.wait_ready()
        kept = client.generate("llama", PROMPT, **asked)
        next(kept)
        worker.signal(signal.SIGTERM)
        assert list(kept)[-1].parameters["completion_tokens"] == 200
        assert worker.wait() == 0
