"""ModelStreamInfer and ModelInfer of a model that generates, over real sockets."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from deepseek_protos import inference_pb2 as pb

from tests.support.engine import eventually
from tests.support.generation_serving import Serving, ask, serving, tokens_of
from tests.support.scripted_generator import BROKEN, answer_of
from tests.support.worker import echo_request


@pytest.fixture
async def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    async with serving(tmp_path, monkeypatch) as running:
        yield running


async def stream(
    worker: Serving, *requests: pb.ModelInferRequest, timeout: float = 20.0
) -> list[pb.ModelStreamInferResponse]:
    async def sent() -> AsyncIterator[pb.ModelInferRequest]:
        for request in requests:
            yield request

    return [item async for item in worker.oip.ModelStreamInfer(sent(), timeout=timeout)]


def answers(items: list[pb.ModelStreamInferResponse]) -> list[pb.ModelInferResponse]:
    assert [item.error_message for item in items] == [""] * len(items)
    return [item.infer_response for item in items]


def final(answer: pb.ModelInferResponse) -> bool:
    return answer.parameters["triton_final_response"].bool_param


async def test_an_answer_is_streamed_and_its_last_part_says_how_it_ended(worker: Serving) -> None:
    got = answers(await stream(worker, ask("3 5", request_id="r", max_tokens=40)))
    assert tokens_of(got) == answer_of(5, 40)
    text = b"".join(
        o.contents.bytes_contents[0] for a in got for o in a.outputs if o.name == "text"
    )
    assert text.decode().split() == [str(token) for token in answer_of(5, 40)]
    assert {answer.id for answer in got} == {"r"}
    assert [final(answer) for answer in got] == [False] * (len(got) - 1) + [True]
    last = got[-1].parameters
    assert last["finish_reason"].string_param == "length"
    assert last["completion_tokens"].int64_param == 40
    assert last["prompt_tokens"].int64_param == 2


async def test_the_first_part_comes_before_the_answer_is_complete(worker: Serving) -> None:
    worker.script.step_s = 0.01
    got = answers(await stream(worker, ask(max_tokens=20)))
    assert len(got) > 3
    assert len(got[0].outputs[1].contents.int64_contents) < 20


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
async def test_an_empty_last_part_where_the_client_wants_one(worker: Serving, whole: bool) -> None:
    request = ask(triton_enable_empty_final_response=True, stream=not whole)
    got = answers(await stream(worker, request))
    assert tokens_of(got) == answer_of(5, 3)
    assert [final(answer) for answer in got] == [False] * (len(got) - 1) + [True]
    assert bool(got[-1].outputs) is whole


async def test_a_bad_request_is_told_in_band_and_the_stream_goes_on(worker: Serving) -> None:
    got = await stream(
        worker, ask(request_id="bad", temperature=-1.0), ask(request_id="good", max_tokens=2)
    )
    bad = [item for item in got if item.error_message]
    assert [item.infer_response.id for item in bad] == ["bad"]
    assert "temperature is -1" in bad[0].error_message
    assert bad[0].infer_response.parameters["error_code"].string_param == "INVALID_ARGUMENT"
    good = [item.infer_response for item in got if not item.error_message]
    assert tokens_of(good) == answer_of(5, 2)


async def test_several_requests_of_a_stream_run_at_once_and_keep_their_ids(
    worker: Serving,
) -> None:
    worker.script.step_s = 0.002
    requests = [ask(str(n), request_id=str(n), max_tokens=30) for n in (100, 200, 300)]
    got = answers(await stream(worker, *requests, echo_request(id="echo")))
    for n in (100, 200, 300):
        assert tokens_of([a for a in got if a.id == str(n)]) == answer_of(n, 30)
    assert [final(a) for a in got if a.id == "echo"] == [True]
    assert worker.script.steps < 3 * 30


async def test_a_whole_answer_by_model_infer(worker: Serving) -> None:
    request = ask(tokens=[3, 5], logprobs=1)
    answer = await worker.oip.ModelInfer(request)
    assert tokens_of([answer]) == answer_of(5, 3)
    assert [output.name for output in answer.outputs] == ["text", "token_ids", "logprobs"]
    assert answer.parameters["finish_reason"].string_param == "length"
    assert answer.parameters["variant"].string_param == "fp32"


async def test_metadata_says_what_a_generating_model_takes(worker: Serving) -> None:
    metadata = await worker.oip.ModelMetadata(pb.ModelMetadataRequest(name="counter"))
    assert [(t.name, list(t.shape)) for t in metadata.inputs] == [("text", [1])]
    config = (await worker.oip.ModelConfig(pb.ModelConfigRequest(name="counter"))).config
    assert config.model_transaction_policy.decoupled
    config = (await worker.oip.ModelConfig(pb.ModelConfigRequest(name="echo"))).config
    assert not config.model_transaction_policy.decoupled


BAD: dict[str, tuple[pb.ModelInferRequest, str, str]] = {
    "empty prompt": (ask(""), "INVALID_ARGUMENT", "no tokens"),
    "token below zero": (ask(tokens=[-1]), "INVALID_ARGUMENT", "unknown token"),
    "token above the vocabulary": (ask(tokens=[10_000]), "INVALID_ARGUMENT", "unknown token"),
    "prompt and answer too long": (ask(max_tokens=4096), "INVALID_ARGUMENT", "4096"),
    "no tokens wanted": (ask(max_tokens=0), "INVALID_ARGUMENT", "max_tokens is 0"),
    "2^32 - 1 tokens": (ask(max_tokens=(1 << 32) - 1), "INVALID_ARGUMENT", str((1 << 32) - 1)),
    "temperature NaN": (ask(temperature=float("nan")), "INVALID_ARGUMENT", "temperature is nan"),
    "temperature below zero": (ask(temperature=-0.5), "INVALID_ARGUMENT", "temperature is -0.5"),
    "temperature as text": (ask(temperature="1"), "INVALID_ARGUMENT", "'temperature' is '1'"),
    "top_k below zero": (ask(top_k=-1), "INVALID_ARGUMENT", "top_k is -1"),
    "top_p of zero": (ask(top_p=0.0), "INVALID_ARGUMENT", "top_p is 0"),
    "seed below zero": (ask(seed=-1), "INVALID_ARGUMENT", "seed is -1"),
    "too many log probabilities": (ask(logprobs=21), "INVALID_ARGUMENT", "logprobs is 21"),
    "empty stop": (ask(stop=""), "INVALID_ARGUMENT", "stop text has 0"),
    "stop tokens as words": (ask(stop_token_ids="a"), "INVALID_ARGUMENT", "stop_token_ids"),
    "two constraints": (ask(regex="a", json_schema="{}"), "INVALID_ARGUMENT", "together"),
    "unknown adapter": (ask(adapter="x"), "INVALID_ARGUMENT", "adapter 'x'"),
    "adapter as number": (ask(adapter=1), "INVALID_ARGUMENT", "'adapter'"),
    "stream as text": (ask(stream="yes"), "INVALID_ARGUMENT", "'stream'"),
    "scores that are no numbers": (ask(tokens=[BROKEN]), "INTERNAL", "not numbers"),
    "no input": (ask(None), "INVALID_ARGUMENT", "no inputs"),
    "expired": (ask(timeout=1), "DEADLINE_EXCEEDED", "deadline"),
}


@pytest.mark.parametrize(("request_", "code", "says"), BAD.values(), ids=list(BAD))
async def test_a_bad_request_has_its_precise_status(
    worker: Serving, request_: pb.ModelInferRequest, code: str, says: str
) -> None:
    (item,) = await stream(worker, request_)
    assert says in item.error_message
    assert item.infer_response.parameters["error_code"].string_param == code
    if "stream" not in request_.parameters:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await worker.oip.ModelInfer(request_)
        assert caught.value.code().name == code
    await eventually(worker.at_rest)
    assert tokens_of(answers(await stream(worker, ask()))) == answer_of(5, 3)


async def test_extreme_but_allowed_values_are_taken(worker: Serving) -> None:
    request = ask(seed=(1 << 63) - 1, top_k=1 << 40, temperature=0, stop='["x", "["]')
    assert tokens_of(answers(await stream(worker, request))) == answer_of(5, 3)


async def test_input_that_is_not_utf8_is_refused(worker: Serving) -> None:
    request = ask()
    request.inputs[0].contents.bytes_contents[0] = b"\xff"
    (item,) = await stream(worker, request)
    assert "not UTF-8" in item.error_message


@pytest.mark.parametrize("how", ["cancel", "deadline", "timeout parameter", "channel"])
async def test_whoever_leaves_frees_the_place_within_a_step(worker: Serving, how: str) -> None:
    worker.script.step_s = 0.005
    parameters: dict[str, Any] = {"max_tokens": 4000}
    if how == "timeout parameter":
        parameters["timeout"] = 100_000
    channel: Any = grpc.aio.insecure_channel(worker.target)
    call = channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )(timeout=0.2 if how == "deadline" else 30)
    await call.write(ask(**parameters))
    await eventually(lambda: worker.running == 1)
    await call.read()
    steps = worker.script.steps
    if how == "cancel":
        call.cancel()
    elif how == "channel":
        await channel.close()
    await eventually(lambda: worker.running == 0)
    if how in ("cancel", "channel"):
        # What passes before the engine hears of it is three hops of a few milliseconds.
        assert worker.script.steps - steps < 200
    if how == "timeout parameter":
        item = await call.read()
        while not item.error_message:
            item = await call.read()
        assert item.infer_response.parameters["error_code"].string_param == "DEADLINE_EXCEEDED"
        await call.done_writing()
        assert not await call.read()
    await eventually(worker.at_rest)
    await channel.close()


async def test_a_client_that_does_not_read_holds_up_nobody_and_stays_small(
    worker: Serving,
) -> None:
    lazy: Any = worker.oip.ModelStreamInfer(timeout=30)
    await lazy.write(ask(max_tokens=4000, request_id="lazy"))
    await eventually(lambda: worker.script.steps > 0)
    assert tokens_of(answers(await stream(worker, ask(max_tokens=100)))) == answer_of(5, 100)
    await eventually(lambda: worker.running == 0)
    await lazy.done_writing()
    got = answers([item async for item in lazy])
    assert tokens_of(got) == answer_of(5, 4000)
    assert len(got) < 4000


async def test_a_lost_engine_fails_open_streams(worker: Serving) -> None:
    worker.script.step_s = 0.01
    call: Any = worker.oip.ModelStreamInfer(timeout=30)
    await call.write(ask(max_tokens=4000))
    await call.read()
    await worker.server.close()
    item = await call.read()
    while not item.error_message:
        item = await call.read()
    assert item.infer_response.parameters["error_code"].string_param == "UNAVAILABLE"
    call.cancel()


async def test_streams_finish_while_the_worker_drains_and_new_requests_are_refused(
    worker: Serving,
) -> None:
    worker.script.step_s = 0.002
    call: Any = worker.oip.ModelStreamInfer(timeout=30)
    await call.write(ask(max_tokens=100))
    await call.read()
    worker.drain.start()
    assert not await worker.drain.wait_idle(0.01)
    await call.write(ask(request_id="late"))
    await call.done_writing()
    got = []
    while item := await call.read():
        got.append(item)
    assert [i.infer_response.id for i in got if i.error_message] == ["late"]
    assert got[-1].infer_response.parameters["completion_tokens"].int64_param == 100
    assert await worker.drain.wait_idle(5)


async def test_a_thousand_cancelled_streams_leave_nothing_behind(worker: Serving) -> None:
    draw = random.Random(3)

    async def caller() -> None:
        call: Any = worker.oip.ModelStreamInfer(timeout=30)
        await call.write(ask(max_tokens=3000))
        for _ in range(draw.randrange(3)):
            await call.read()
        call.cancel()

    for _ in range(20):
        await asyncio.gather(*(caller() for _ in range(50)))
    await eventually(worker.at_rest)
    assert worker.metrics.registry.get_sample_value(
        "deepseek_requests_running", {"model": "counter"}
    ) in (0, None)
    assert tokens_of(answers(await stream(worker, ask()))) == answer_of(5, 3)


async def test_times_of_tokens_are_measured(worker: Serving) -> None:
    started = time.monotonic()
    worker.script.step_s = 0.002
    await stream(worker, ask(max_tokens=10))
    value = worker.metrics.registry.get_sample_value
    labels = {"model": "counter"}
    assert value("deepseek_time_to_first_token_seconds_count", labels) == 1
    first = value("deepseek_time_to_first_token_seconds_sum", labels)
    between = value("deepseek_inter_token_seconds_sum", labels)
    assert first is not None
    assert between is not None
    assert 0 < first + between < time.monotonic() - started
