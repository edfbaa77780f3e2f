"""Deadlines, cancellation and a full queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from deepseek_protos import inference_pb2_grpc, rpc_status_pb2

from tests.support import bundles
from tests.support.worker import WorkerProcess, echo_request, error_of, model, until

Stub = inference_pb2_grpc.GRPCInferenceServiceStub
LATE_S = 0.25
"""What a busy machine may add to an answer that is due at a certain time."""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("overload")
    slow = bundles.write_slow(folder / "slow", steps=60)
    models = [
        model("slow", slow, max_batch_size=1, max_queue_size=2),
        model("long", slow, max_batch_size=1, max_queue_size=100),
        model("four", slow, max_batch_size=4),
    ]
    with WorkerProcess(folder, models, default_deadline_s=20) as process:
        yield process.wait_ready()


@pytest.fixture
def stub(worker: WorkerProcess) -> Iterator[Stub]:
    """A stub of an idle worker."""
    until(lambda: idle(worker), what="an idle worker")
    with worker.stub() as stub:
        yield stub
    until(lambda: idle(worker), what="an idle worker")


def idle(worker: WorkerProcess) -> bool:
    samples = worker.metrics()
    names = ("deepseek_requests_running", "deepseek_requests_waiting")
    return not any(
        samples.get(f'{n}{{model="{m}"}}') for n in names for m in ("slow", "long", "four")
    )


def busy(worker: WorkerProcess, stub: Stub, name: str) -> Any:
    """A request that keeps the engine busy."""
    call = stub.ModelInfer.future(echo_request(model=name), timeout=120)
    sample = f'deepseek_requests_running{{model="{name}"}}'
    until(lambda: worker.metrics()[sample] == 1, what="the engine is busy")
    return call


def test_a_full_queue_refuses_and_says_when_to_retry(stub: Stub) -> None:
    calls = [stub.ModelInfer.future(echo_request(model="slow"), timeout=120) for _ in range(12)]
    errors = [error for call in calls if (error := error_of(call)) is not None]
    assert 0 < len(errors) < len(calls)
    for error in errors:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "queue of the model 'slow' is full" in error.details()
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        status = rpc_status_pb2.Status.FromString(details)
        why, detail = status.details
        assert rpc_status_pb2.ErrorInfo.FromString(why.value).reason == "QueueFull"
        delay = rpc_status_pb2.RetryInfo.FromString(detail.value).retry_delay
        assert status.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert detail.type_url == "type.googleapis.com/google.rpc.RetryInfo"
        assert delay.seconds + delay.nanos / 1e9 > 0
    assert stub.ModelInfer(echo_request(model="long"), timeout=20).outputs


def test_a_timeout_that_passes_in_the_queue_is_answered_when_it_passes(
    worker: WorkerProcess, stub: Stub
) -> None:
    first = [busy(worker, stub, "long")]
    first += [stub.ModelInfer.future(echo_request(model="long"), timeout=120) for _ in range(4)]
    request = echo_request(model="long", id="late")
    request.parameters["timeout"].int64_param = 100_000
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as refusal:
        stub.ModelInfer(request, timeout=120)
    assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "deadline" in str(refusal.value.details())
    assert time.monotonic() - started < 0.1 + LATE_S
    assert all(call.result().outputs for call in first)


def test_work_whose_deadline_passed_in_the_queue_is_not_started(
    worker: WorkerProcess, stub: Stub
) -> None:
    def batches(rows: int) -> float:
        sample = f'deepseek_batch_rows_bucket{{le="{rows}.0",model="four"}}'
        return worker.metrics().get(sample, 0.0)

    # Batches of four rows have no room for the two rows of the late request: it would run alone.
    alone_before, all_before = batches(2), batches(4)
    full = echo_request(model="four", rows=4)
    first = [stub.ModelInfer.future(full, timeout=120) for _ in range(6)]
    until(lambda: worker.metrics()['deepseek_requests_running{model="four"}'] >= 4)
    with pytest.raises(grpc.RpcError) as refusal:
        stub.ModelInfer(echo_request(model="four", rows=2), timeout=0.02)
    assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert all(call.result().outputs for call in first)
    until(lambda: batches(4) >= all_before + 6, what="the heartbeat after the last batch")
    assert batches(2) == alone_before


def test_a_cancelled_request_leaves_the_queue(worker: WorkerProcess, stub: Stub) -> None:
    first = busy(worker, stub, "long")
    others: list[Any] = [
        stub.ModelInfer.future(echo_request(model="long"), timeout=120) for _ in range(20)
    ]
    until(lambda: worker.metrics()['deepseek_requests_running{model="long"}'] > 10)
    for call in others:
        call.cancel()
    until(lambda: idle(worker), what="an idle worker")
    assert first.result().outputs
    samples = worker.metrics()
    sample = 'deepseek_requests_total{code="CANCELLED",model="long",precision="fp32",reason=""}'
    assert samples[sample] > 10


def test_requests_without_a_deadline_get_the_default_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("default-deadline")
    models = [
        model("slow", bundles.write_slow(folder / "slow", steps=60), max_batch_size=1),
    ]
    with WorkerProcess(folder, models, default_deadline_s=0.02) as worker:
        with worker.wait_ready().stub() as stub, pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(echo_request(model="slow"))
        assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
