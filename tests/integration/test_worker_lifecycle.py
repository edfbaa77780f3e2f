"""How a worker starts, stops, and refuses to start."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from deepseek import Client
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import bundles
from tests.support.relay import Relay
from tests.support.worker import WorkerProcess, alive, echo_request, error_of, model, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SLOW_STEPS = 40
"""About a tenth of a second of work on a small machine."""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.write_echo(tmp_path_factory.mktemp("bundles") / "echo")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.write_slow(tmp_path_factory.mktemp("bundles") / "slow", steps=SLOW_STEPS)


def running(worker: WorkerProcess) -> float:
    return worker.metrics().get('deepseek_requests_running{model="slow"}', 0.0)


def start_requests(
    worker: WorkerProcess, stub: inference_pb2_grpc.GRPCInferenceServiceStub, count: int
) -> list[Any]:
    """Send requests to the slow model and wait until all of them are in the worker."""
    request = echo_request(model="slow")
    calls = [stub.ModelInfer.future(request, timeout=120) for _ in range(count)]
    until(lambda: running(worker) + sum(call.done() for call in calls) == count)
    return calls


def test_sigterm_lets_running_requests_finish_and_refuses_new_ones(
    tmp_path: Path, slow: Path
) -> None:
    models = [model("slow", slow, max_batch_size=1)]
    with WorkerProcess(tmp_path, models) as worker, worker.channel() as channel:
        worker.wait_ready()
        engine = worker.engine_pid
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="slow"), timeout=120
        )
        assert next(watch).status == SERVING
        calls = start_requests(worker, stub, 4)
        worker.signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert worker.get("/readyz")[0] == 503
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(echo_request(model="slow"), timeout=20)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert [call.result().outputs[0].name for call in calls] == ["OUT"] * 4
        assert worker.wait() == 0
        assert not alive(engine)


def test_a_kept_connection_goes_elsewhere_while_running_requests_finish(
    tmp_path: Path, slow: Path
) -> None:
    models = [model("slow", slow, max_batch_size=1)]
    with WorkerProcess(tmp_path, models) as old, WorkerProcess(tmp_path, models) as new:
        given = {"IN": np.zeros((1, 16), np.float32)}
        with Relay(old.wait_ready().target) as way, Client(way.url) as client, old.stub() as stub:
            assert client.infer("slow", given)
            way.target = new.wait_ready().target
            calls = start_requests(old, stub, 10)
            old.signal(signal.SIGTERM)
            old.wait_log("the worker stops")
            assert client.infer("slow", given)
            assert not calls[-1].done()
            assert [call.result().outputs[0].name for call in calls] == ["OUT"] * 10
        assert old.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_models_load_ends_the_worker_at_once(
    tmp_path: Path, slow: Path, number: int
) -> None:
    with WorkerProcess(tmp_path, [model("slow", slow)]) as worker:
        worker.wait_log("the engine process started")
        status, body = worker.get("/readyz")
        assert (status, json.loads(body)["models"]["slow"]["state"]) == (503, "STARTING")
        worker.signal(number)
        assert worker.wait(timeout_s=20) == 0
        assert not alive(worker.engine_pid)


def test_a_second_signal_does_not_wait_for_running_requests(tmp_path: Path, slow: Path) -> None:
    models = [model("slow", slow, max_batch_size=1)]
    with (
        WorkerProcess(tmp_path, models, drain_s=300) as worker,
        worker.wait_ready().stub() as stub,
    ):
        calls = start_requests(worker, stub, 60)
        worker.signal(signal.SIGTERM)
        worker.wait_log("the worker stops")
        worker.signal(signal.SIGTERM)
        assert worker.wait(timeout_s=20) == 0
        assert error_of(calls[-1]).code() is grpc.StatusCode.UNAVAILABLE


def test_requests_that_outlast_the_drain_are_answered_unavailable(
    tmp_path: Path, slow: Path
) -> None:
    models = [model("slow", slow, max_batch_size=1)]
    with WorkerProcess(tmp_path, models, drain_s=0.1) as worker:
        with worker.wait_ready().stub() as stub:
            calls = start_requests(worker, stub, 30)
            worker.signal(signal.SIGTERM)
            assert error_of(calls[-1]).code() is grpc.StatusCode.UNAVAILABLE
        assert worker.wait() == 0


@pytest.mark.parametrize(
    ("setting", "flag"), [("grpc_port", "--grpc-port"), ("http_port", "--http-port")]
)
def test_a_port_in_use_is_named_with_the_flag_that_changes_it(
    tmp_path: Path, echo: Path, setting: str, flag: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with WorkerProcess(tmp_path, [model("echo", echo)], **{setting: port}) as worker:
            assert worker.wait() == 2
    text = worker.raw[-1]
    assert f"port {port} is already in use" in text
    assert flag in text
    assert "Traceback" not in "".join(worker.raw)


def test_an_address_of_another_machine_is_refused(tmp_path: Path, echo: Path) -> None:
    with WorkerProcess(tmp_path, [model("echo", echo)], host="192.0.2.1") as worker:
        assert worker.wait() == 2
    assert "cannot listen on 192.0.2.1" in worker.raw[-1]
    assert "--host" in worker.raw[-1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("{", "is wrong", id="json"),
        pytest.param('{"models": []}', "No model is configured", id="no-models"),
        pytest.param('{"models": [], "colour": 1}', "colour", id="unknown-setting"),
        pytest.param(
            '{"models": [{"name": "a", "bundle": "b"}], "grpc_port": 70000}',
            "grpc_port is 70000",
            id="port",
        ),
        pytest.param(
            '{"models": [{"name": "a", "bundle": "b"}, {"name": "a", "bundle": "c"}]}',
            "'a' is configured more than once",
            id="twice",
        ),
    ],
)
def test_a_wrong_configuration_ends_with_one_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "worker.json"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "deepseek_worker", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_model_that_cannot_load_is_reported_while_the_others_serve(
    tmp_path: Path, echo: Path
) -> None:
    models = [model("echo", echo), model("lost", tmp_path / "nowhere")]
    with WorkerProcess(tmp_path, models) as worker, worker.channel() as channel:
        until(lambda: worker.get("/startupz")[0] == 200, what="every model is settled")
        status, body = worker.get("/readyz")
        found: dict[str, Any] = json.loads(body)["models"]
        assert status == 503
        assert found["echo"] == {"state": "READY"}
        assert found["lost"]["state"] == "FAILED"
        assert found["lost"]["reason"]
        assert str(tmp_path) not in body

        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ModelInfer(echo_request(), timeout=20).outputs
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(echo_request(model="lost"), timeout=20)
        assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert str(refusal.value.details()).startswith("The model 'lost' is not served: ")
        assert str(tmp_path) not in str(refusal.value.details())

        assert served_by(channel, "", "echo", "lost") == [NOT_SERVING, SERVING, NOT_SERVING]


def test_a_model_that_loads_and_cannot_run_is_never_ready(tmp_path: Path, echo: Path) -> None:
    models = [model("echo", echo), model("failing", bundles.write_failing(tmp_path / "failing"))]
    with WorkerProcess(tmp_path, models) as worker, worker.channel() as channel:
        until(lambda: worker.get("/startupz")[0] == 200, what="every model is settled")
        status, body = worker.get("/readyz")
        found: dict[str, Any] = json.loads(body)["models"]
        assert (status, found["echo"]["state"]) == (503, "READY")
        assert found["failing"]["state"] == "FAILED"
        assert found["failing"]["reason"]
        assert "out of data bounds" in found["failing"]["message"], "the runtime's own reason"
        assert served_by(channel, "", "echo", "failing") == [NOT_SERVING, SERVING, NOT_SERVING]

        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert not stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
        assert not stub.ModelReady(pb.ModelReadyRequest(name="failing"), timeout=20).ready
        assert stub.ModelInfer(echo_request(), timeout=20).outputs
        settled = worker.wait_log("every model is settled")
        assert (settled["ready"], settled["failed"]) == (["echo"], ["failing"])


def test_a_model_whose_probe_is_refused_is_never_ready(tmp_path: Path, echo: Path) -> None:
    # The engine runs it well; only the inference through the worker's own socket shows the fault.
    limits = {"max_message_bytes": 64}
    with (
        WorkerProcess(tmp_path, [model("echo", echo)], limits=limits) as worker,
        worker.channel() as channel,
    ):
        until(lambda: worker.get("/startupz")[0] == 200, what="every model is settled")
        status, body = worker.get("/readyz")
        found = json.loads(body)["models"]["echo"]
        assert (status, found["state"], found["reason"]) == (503, "FAILED", "ProbeFailed")
        assert "larger than max" in found["message"]
        assert served_by(channel, "", "echo") == [NOT_SERVING, NOT_SERVING]
        settled = worker.wait_log("every model is settled")
        assert (settled["ready"], settled["failed"]) == ([], ["echo"])


def served_by(channel: grpc.Channel, *names: str) -> list[int]:
    """What the health service says of each name."""
    health = health_pb2_grpc.HealthStub(channel)
    requests = [health_pb2.HealthCheckRequest(service=name) for name in names]
    return [health.Check(request, timeout=20).status for request in requests]


def test_text_logs_are_for_people_and_tell_each_model_once(tmp_path: Path, echo: Path) -> None:
    arguments = ["--log-format", "text"]
    with WorkerProcess(tmp_path, [model("echo", echo)], arguments=arguments) as worker:
        until(lambda: any("every model is settled" in line for line in worker.raw), what="the log")
        (line,) = [line for line in worker.raw if "model='echo'" in line]
        assert "INFO" in line
        assert "model ready model='echo' variant='fp32' precision='fp32'" in line
        worker.signal()
        assert worker.wait() == 0


PROGRAM = """
import os, signal, sys
from pathlib import Path
from deepseek_worker.config import load_config
from deepseek_worker.worker import WorkerReport, run_worker

def ready(report: WorkerReport) -> None:
    states = [f"{model.name}={model.phase}" for model in report.models]
    print(report.grpc_address, report.http_address, *states, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

sys.exit(run_worker(load_config(Path(sys.argv[1])), ready))
"""


def test_a_program_that_runs_a_worker_is_told_when_it_is_ready(tmp_path: Path, echo: Path) -> None:
    path = tmp_path / "worker.json"
    models = [model("echo", echo), model("lost", tmp_path / "nowhere")]
    path.write_text(json.dumps({"models": models, "grpc_port": 0, "http_port": 0}))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    grpc_address, http_address, *states = done.stdout.split()
    assert grpc_address.startswith("127.0.0.1:")
    assert http_address.startswith("127.0.0.1:")
    assert states == ["echo=READY", "lost=FAILED"]


def test_an_engine_that_cannot_start_ends_the_worker_with_an_error(
    tmp_path: Path, echo: Path
) -> None:
    settings = {"backoff_initial_s": 0.01, "backoff_max_s": 0.01}
    options = {"log_level": "nonsense"}
    with WorkerProcess(
        tmp_path, [model("echo", echo)], supervision=settings, engine_options=options
    ) as worker:
        assert worker.wait(timeout_s=90) == 1
    assert any("is not a log level" in log["message"] for log in worker.logs)
    assert worker.find_log("the engine process cannot be started; the lines above say why")
