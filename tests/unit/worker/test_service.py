"""The inference service over a real socket, with an engine made for the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from deepseek_api.errors import EngineUnavailableError, ErrorCode, InferenceError, QueueFullError
from deepseek_engine.client import (
    InferenceRequest,
    InferenceResponse,
    ModelConfig,
    ModelInfo,
    ModelState,
    ModelStats,
    Tensor,
    TensorSpec,
    Timing,
)
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc, rpc_status_pb2
from deepseek_worker.answering import Answering
from deepseek_worker.calls import Ledger
from deepseek_worker.config import Limits
from deepseek_worker.drain import Drain
from deepseek_worker.fleet import Fleet
from deepseek_worker.grpc_server import bind, build_server
from deepseek_worker.health import Health
from deepseek_worker.metrics import Metrics
from deepseek_worker.oip import InferenceService
from deepseek_worker.statistics import Statistics

WORDS = ModelInfo(
    name="words",
    state=ModelState.READY,
    precision="int8",
    inputs=(TensorSpec("IN", "BYTES", (-1, 2)),),
    outputs=(TensorSpec("OUT", "BYTES", (-1, 2)),),
    random_weights=True,
)


class FakeEngine:
    """Answers with its inputs, or as a test says."""

    def __init__(self) -> None:
        self.behave: Callable[[], Any] = lambda: None
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.seen: list[InferenceRequest] = []

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        self.seen.append(request)
        self.started.set()
        try:
            result = self.behave()
            if asyncio.iscoroutine(result):
                await result
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        outputs = tuple(Tensor("OUT", t.datatype, t.shape, t.data) for t in request.inputs)
        timing = Timing(1.0, 2.0, 3.0, 4.0, 5)
        return InferenceResponse(outputs, "v", "int8", True, timing)

    def models(self) -> Mapping[str, ModelInfo]:
        return {"words": WORDS}

    def stats(self) -> Mapping[str, ModelStats]:
        return {}

    async def close(self) -> None:
        return None


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def drain() -> Drain:
    return Drain()


@pytest.fixture
async def stub(engine: FakeEngine, drain: Drain) -> AsyncIterator[Any]:
    fleet = Fleet([ModelConfig(name="words", bundle="")])
    fleet.reported(engine.models())
    statistics = Statistics()
    ledger = Ledger(fleet=fleet, drain=drain, metrics=Metrics(), statistics=statistics)
    answering = Answering(
        engine=engine,  # type: ignore[arg-type]
        fleet=fleet,
        ledger=ledger,
        limits=Limits(),
        default_deadline_s=5.0,
        stream_deadline_s=5.0,
    )
    service = InferenceService(
        answering=answering, drain=drain, statistics=statistics, version="1.2.3"
    )
    server = build_server(service, Health(), limits=Limits())
    port = bind(server, host="127.0.0.1", port=0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    await server.stop(0)


def request(*items: bytes) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="words")
    tensor = message.inputs.add(name="IN", datatype="BYTES", shape=[1, 2])
    tensor.contents.bytes_contents.extend(items or (b"a", b"b"))
    return message


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_bytes_of_any_kind_pass_unchanged(stub: Any) -> None:
    items = [b"\x00\xff\xfe", bytes(range(256)) * 8192]
    answer = await stub.ModelInfer(request(*items))
    assert list(answer.outputs[0].contents.bytes_contents) == items


async def test_answers_carry_variant_precision_time_and_the_mark_of_random_weights(
    stub: Any,
) -> None:
    parameters = (await stub.ModelInfer(request())).parameters
    assert parameters["variant"].string_param == "v"
    assert parameters["precision"].string_param == "int8"
    assert parameters["queue_ms"].double_param == 2.0
    assert parameters["compute_ms"].double_param == 3.0
    assert parameters["batch_rows"].int64_param == 5
    assert parameters["random_weights"].bool_param is True


async def test_an_unexpected_error_is_opaque_and_logged_under_its_id(
    stub: Any, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("secret in /etc/passwd")

    engine.behave = fail
    error = await refusal(stub.ModelInfer(request()))
    assert error.code() is grpc.StatusCode.INTERNAL
    details = str(error.details())
    assert "secret" not in details
    incident = details.rstrip(".").split()[-1]
    record = next(r for r in caplog.records if vars(r).get("incident") == incident)
    assert record.exc_info is not None
    engine.behave = lambda: None
    assert (await stub.ModelInfer(request())).outputs


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (QueueFullError("Full.", retry_after_s=0.25), grpc.StatusCode.UNAVAILABLE, True),
        (EngineUnavailableError("Gone."), grpc.StatusCode.UNAVAILABLE, True),
        *(
            (InferenceError("It failed.", code=code), grpc.StatusCode[code.value], False)
            for code in ErrorCode
        ),
    ],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
async def test_errors_of_the_engine_keep_code_and_sentence(
    stub: Any, engine: FakeEngine, error: Exception, code: grpc.StatusCode, retry: bool
) -> None:
    def fail() -> None:
        raise error

    engine.behave = fail
    caught = await refusal(stub.ModelInfer(request()))
    assert (caught.code(), caught.details()) == (code, str(error))
    metadata: Any = caught.trailing_metadata()
    status = rpc_status_pb2.Status.FromString(dict(metadata)["grpc-status-details-bin"])
    kinds = [detail.type_url.rpartition(".")[2] for detail in status.details]
    assert kinds == (["ErrorInfo", "RetryInfo"] if retry else ["ErrorInfo"])


async def test_cancelling_a_call_cancels_the_work(stub: Any, engine: FakeEngine) -> None:
    engine.behave = lambda: asyncio.Event().wait()
    call = stub.ModelInfer(request())
    running = asyncio.ensure_future(_result(call))
    async with asyncio.timeout(5):
        await engine.started.wait()
        call.cancel()
        await engine.cancelled.wait()
    await asyncio.gather(running, return_exceptions=True)


async def _result(call: Any) -> Any:
    return await call


async def test_the_deadline_of_the_caller_reaches_the_engine(stub: Any, engine: FakeEngine) -> None:
    loop_now = asyncio.get_running_loop().time
    engine.behave = lambda: asyncio.Event().wait()
    started = loop_now()
    error = await refusal(stub.ModelInfer(request(), timeout=0.1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert loop_now() - started < 1.0
    async with asyncio.timeout(5):
        await engine.cancelled.wait()


async def test_the_timeout_parameter_brings_the_deadline_forward(
    stub: Any, engine: FakeEngine
) -> None:
    engine.behave = lambda: asyncio.Event().wait()
    message = request()
    message.parameters["timeout"].int64_param = 50_000
    error = await refusal(stub.ModelInfer(message, timeout=30))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "not answered before its deadline" in str(error.details())


async def test_parameters_reach_the_engine_except_those_of_the_protocol(
    stub: Any, engine: FakeEngine
) -> None:
    message = request()
    message.parameters["priority"].uint64_param = 3
    message.parameters["timeout"].int64_param = 10**9
    message.parameters["top_k"].int64_param = 5
    await stub.ModelInfer(message)
    assert engine.seen[0].priority == 3
    assert dict(engine.seen[0].parameters) == {"top_k": 5}


async def test_a_draining_worker_refuses_inference_and_is_not_ready(
    stub: Any, drain: Drain
) -> None:
    drain.start()
    error = await refusal(stub.ModelInfer(request()))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live


async def test_the_server_tells_its_version(stub: Any) -> None:
    assert (await stub.ServerMetadata(pb.ServerMetadataRequest())).version == "1.2.3"
