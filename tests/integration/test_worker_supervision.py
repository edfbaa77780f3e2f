"""A lost engine process costs its own requests and nothing else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from deepseek_protos import inference_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import bundles
from tests.support.worker import WorkerProcess, alive, echo_request, error_of, model, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def load(worker: WorkerProcess, name: str, *, clients: int) -> Iterator[Counter[str]]:
    """Clients that send one request after the other; gives the count of answers by code."""
    codes: Counter[str] = Counter()
    stop = threading.Event()

    def client() -> None:
        with worker.stub() as stub:
            while not stop.is_set():
                try:
                    stub.ModelInfer(echo_request(model=name), timeout=20)
                    codes["OK"] += 1
                except grpc.RpcError as error:
                    codes[error.code().name] += 1
                    stop.wait(0.02)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield codes
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker whose engine the tests kill; each test begins with it ready again."""
    folder = tmp_path_factory.mktemp("supervision")
    models = [
        model("quick", bundles.write_slow(folder / "quick", steps=5)),
        model("slow", bundles.write_slow(folder / "slow", steps=40), max_batch_size=1),
    ]
    # Every restart is a first one here: it comes at once.
    with WorkerProcess(folder, models, supervision={"stable_after_s": 0.0}) as process:
        yield process


def restarts(worker: WorkerProcess) -> float:
    return worker.metrics()["deepseek_engine_restarts_total"]


def test_an_engine_killed_under_load_comes_back_by_itself(worker: WorkerProcess) -> None:
    with worker.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="quick"), timeout=150
        )
        worker.wait_ready()
        until(lambda: next(watch).status == SERVING)
        first, before = worker.engine_pid, restarts(worker)
        with load(worker, "quick", clients=8) as codes:
            until(lambda: codes["OK"] > 10, what="load")
            killed_at = time.monotonic()
            os.kill(first, signal.SIGKILL)
            assert next(watch).status == NOT_SERVING
            assert next(watch).status == SERVING
            recovered_s = time.monotonic() - killed_at
            until(lambda: codes["UNAVAILABLE"], what="the requests of the lost engine fail")
            answered = codes["OK"]
            until(lambda: codes["OK"] > answered + 10, what="answers of the new engine")
        watch.cancel()
        assert recovered_s < 10
        assert set(codes) == {"OK", "UNAVAILABLE"}
        assert worker.engine_pid != first
        assert restarts(worker) == before + 1


def test_requests_of_a_killed_engine_learn_when_to_retry(worker: WorkerProcess) -> None:
    with worker.wait_ready().stub() as stub:
        calls = [stub.ModelInfer.future(echo_request(model="slow"), timeout=120) for _ in range(8)]
        until(lambda: worker.metrics()['deepseek_requests_running{model="slow"}'] >= 2)
        os.kill(worker.engine_pid, signal.SIGKILL)
        error = error_of(calls[-1])
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "grpc-status-details-bin" in dict(error.trailing_metadata())


def test_an_engine_that_stops_answering_is_replaced(tmp_path: Path) -> None:
    models = [model("echo", bundles.write_echo(tmp_path / "echo"))]
    settings = {"heartbeat_timeout_s": 5.0}
    with WorkerProcess(tmp_path, models, supervision=settings) as worker:
        first = worker.wait_ready().engine_pid
        os.kill(first, signal.SIGSTOP)
        with worker.stub() as stub:
            call = stub.ModelInfer.future(echo_request(), timeout=120)
            assert error_of(call).code() is grpc.StatusCode.UNAVAILABLE
            lost = worker.wait_log("the engine process is lost")
            assert lost["cause"] == "no heartbeat for 5 s"
            worker.wait_ready()
            assert stub.ModelInfer(echo_request(), timeout=20).outputs
        assert not alive(first)


def test_the_engine_does_not_outlive_a_killed_worker(tmp_path: Path) -> None:
    models = [model("echo", bundles.write_echo(tmp_path / "echo"))]
    with WorkerProcess(tmp_path, models) as worker:
        engine = worker.wait_ready().engine_pid
        assert worker.left_behind()
        worker.signal(signal.SIGKILL)
        worker.wait()
        until(lambda: not alive(engine), timeout_s=20, what="the engine ended")
        assert worker.left_behind() == []


def test_a_request_while_the_engine_restarts_is_unavailable(worker: WorkerProcess) -> None:
    with worker.wait_ready().channel() as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        os.kill(worker.engine_pid, signal.SIGKILL)

        def refused() -> Any:
            call = stub.ModelInfer.future(echo_request(model="quick"), timeout=20)
            return error_of(call)

        error = until(refused)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "try again in a few seconds" in error.details()
        worker.wait_ready()
        assert stub.ModelInfer(echo_request(model="quick"), timeout=20).outputs
