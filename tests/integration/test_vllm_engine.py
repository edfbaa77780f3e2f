"""VllmEngine over real sockets: what gateways ask, and what they send by mistake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import vllm_engine_pb2 as vllm
from deepseek_protos import vllm_engine_pb2_grpc

from tests.support.engine import eventually
from tests.support.generation_serving import Serving, serving
from tests.support.scripted_generator import BROKEN, answer_of

REFUSED = {
    "no prompt": (vllm.GenerateRequest(), "INVALID_ARGUMENT", "neither tokens nor text"),
    "empty prompt": (
        vllm.GenerateRequest(tokenized=vllm.TokenizedInput()), "INVALID_ARGUMENT", "no tokens",
    ),
    "unknown token": (
        vllm.GenerateRequest(tokenized=vllm.TokenizedInput(input_ids=[(1 << 32) - 1])),
        "INVALID_ARGUMENT", "unknown token",
    ),
    "a very long id": (
        vllm.GenerateRequest(request_id="x" * 1_000_000), "INVALID_ARGUMENT", "request_id",
    ),
    "media": (
        vllm.GenerateRequest(mm_inputs=vllm.Unread()), "UNIMPLEMENTED", "'mm_inputs'",
    ),
    "cache transfer": (
        vllm.GenerateRequest(kv_transfer_params_json="{}"), "UNIMPLEMENTED", "kv_transfer",
    ),
    "another rank": (
        vllm.GenerateRequest(data_parallel_rank=1), "INVALID_ARGUMENT", "data parallel rank 1",
    ),
}  # fmt: skip
REFUSED_SAMPLING: dict[str, tuple[dict[str, Any], str, str]] = {
    "no tokens wanted": ({"max_tokens": 0}, "INVALID_ARGUMENT", "max_tokens is 0"),
    "2^32 - 1 tokens": ({"max_tokens": (1 << 32) - 1}, "INVALID_ARGUMENT", "4294967295"),
    "temperature NaN": ({"temperature": float("nan")}, "INVALID_ARGUMENT", "temperature is nan"),
    "temperature below zero": ({"temperature": -1.0}, "INVALID_ARGUMENT", "temperature is -1"),
    "top_p above one": ({"top_p": 1.5}, "INVALID_ARGUMENT", "top_p is 1.5"),
    "all log probabilities": ({"logprobs": -1}, "INVALID_ARGUMENT", "logprobs is -1"),
    "several answers": ({"n": 2}, "UNIMPLEMENTED", "n is 2"),
    "prompt log probabilities": ({"prompt_logprobs": 1}, "UNIMPLEMENTED", "prompt_logprobs"),
    "biases": ({"logit_bias": {1: 1.0}}, "UNIMPLEMENTED", "logit_bias"),
    "a grammar": ({"grammar": "root ::= x"}, "UNIMPLEMENTED", "'grammar'"),
    "no choices": ({"choice": vllm.ChoiceConstraint()}, "INVALID_ARGUMENT", "choice has 0"),
    "too many stops": ({"stop": ["x"] * 17}, "INVALID_ARGUMENT", "stop has 17"),
}


@pytest.fixture
async def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    async with serving(tmp_path, monkeypatch) as running:
        yield running


def ask(*tokens: int, stream: bool = True, request_id: str = "r", **sampling: Any) -> Any:
    return vllm.GenerateRequest(
        request_id=request_id,
        tokenized=vllm.TokenizedInput(input_ids=tokens or (5,)),
        sampling_params=vllm.SamplingParams(**{"max_tokens": 3, **sampling}),
        stream=stream,
    )


async def items(call: Any) -> list[Any]:
    return [item async for item in call]


async def test_a_streamed_answer_is_its_parts_and_then_the_whole(worker: Serving) -> None:
    worker.script.step_s = 0.002
    *parts, last = await items(worker.vllm.Generate(ask(3, 5, max_tokens=20, logprobs=2)))
    assert [token for item in parts for token in item.chunk.token_ids] == answer_of(5, 20)
    assert parts[-1].chunk.completion_tokens == 20
    assert {item.chunk.prompt_tokens for item in parts} == {2}
    assert [t for i in parts for t in i.chunk.output_logprobs.token_ids] == answer_of(5, 20)
    assert list(parts[0].chunk.output_logprobs.top_logprobs[0].token_ids) == [6, 7]
    complete = last.complete
    assert list(complete.output_ids) == answer_of(5, 20)
    assert complete.finish_reason == "length"
    assert (complete.prompt_tokens, complete.completion_tokens, complete.cached_tokens) == (
        2,
        20,
        1,
    )


async def test_an_answer_that_is_not_streamed_is_one_message(worker: Serving) -> None:
    (only,) = await items(worker.vllm.Generate(ask(stream=False, stop_token_ids=[7])))
    assert list(only.complete.output_ids) == [6, 7]
    assert only.complete.finish_reason == "stop"
    assert only.complete.matched_token_id == 7


async def test_text_is_taken_too(worker: Serving) -> None:
    request = vllm.GenerateRequest(text="3 5", sampling_params=vllm.SamplingParams(max_tokens=1))
    (only,) = await items(worker.vllm.Generate(request))
    assert list(only.complete.output_ids) == [6]


@pytest.mark.parametrize(("request_", "code", "says"), REFUSED.values(), ids=list(REFUSED))
async def test_a_bad_request_has_its_precise_status(
    worker: Serving, request_: vllm.GenerateRequest, code: str, says: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await items(worker.vllm.Generate(request_))
    assert caught.value.code().name == code
    assert says in str(caught.value.details())
    await eventually(worker.at_rest)


@pytest.mark.parametrize(
    ("sampling", "code", "says"), REFUSED_SAMPLING.values(), ids=list(REFUSED_SAMPLING)
)
async def test_bad_sampling_has_its_precise_status(
    worker: Serving, sampling: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await items(worker.vllm.Generate(ask(**sampling)))
    assert caught.value.code().name == code
    assert says in str(caught.value.details())
    await eventually(worker.at_rest)


async def test_scores_that_are_no_numbers_fail_that_request_alone(worker: Serving) -> None:
    good = asyncio.create_task(items(worker.vllm.Generate(ask(max_tokens=50, request_id="good"))))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await items(worker.vllm.Generate(ask(BROKEN, request_id="bad")))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert list((await good)[-1].complete.output_ids) == answer_of(5, 50)


async def test_abort_ends_an_answer_with_what_there_is(worker: Serving) -> None:
    worker.script.step_s = 0.005
    call = worker.vllm.Generate(ask(max_tokens=4000))
    first = await call.read()
    await worker.vllm.Abort(vllm.AbortRequest(request_ids=["unknown", "r", "r"]))
    got = [first]
    while item := await call.read():
        got.append(item)
    complete = got[-1].complete
    assert complete.finish_reason == "abort"
    assert list(complete.output_ids) == answer_of(5, len(complete.output_ids))
    assert len(complete.output_ids) < 4000
    await worker.vllm.Abort(vllm.AbortRequest(request_ids=["r"]))
    await eventually(worker.at_rest)


async def test_an_id_belongs_to_its_connection(worker: Serving) -> None:
    worker.script.step_s = 0.002
    options = [("grpc.use_local_subchannel_pool", 1)]
    call = worker.vllm.Generate(ask(max_tokens=200))
    await call.read()
    async with grpc.aio.insecure_channel(worker.target, options=options) as channel:
        other = vllm_engine_pb2_grpc.VllmEngineStub(channel)
        await other.Abort(vllm.AbortRequest(request_ids=["r"]))  # type: ignore[misc]
        (*_, last) = await items(other.Generate(ask(50, max_tokens=2)))
        assert list(last.complete.output_ids) == [51, 52]
    got = None
    while item := await call.read():
        got = item
    assert got is not None
    assert got.complete.finish_reason == "length"


async def test_an_id_that_is_in_use_is_refused_and_can_be_used_again(worker: Serving) -> None:
    worker.script.step_s = 0.005
    call = worker.vllm.Generate(ask(max_tokens=4000))
    await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await items(worker.vllm.Generate(ask()))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "request_id" in str(caught.value.details())
    call.cancel()
    await eventually(worker.at_rest)
    assert len(await items(worker.vllm.Generate(ask()))) > 0


@pytest.mark.parametrize("how", ["cancel", "deadline", "cancel without reading"])
async def test_whoever_leaves_frees_the_place(worker: Serving, how: str) -> None:
    worker.script.step_s = 0.005
    call = worker.vllm.Generate(ask(max_tokens=4000), timeout=0.2 if how == "deadline" else 30)
    if how == "cancel without reading":
        await eventually(lambda: worker.running == 1)
    else:
        await call.read()
    if how != "deadline":
        call.cancel()
    await eventually(worker.at_rest)
    assert worker.script.steps < 4000


async def test_a_deadline_that_gateways_do_not_send_is_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch, stream_deadline_s=0.2) as worker:
        worker.script.step_s = 0.005
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await items(worker.vllm.Generate(ask(max_tokens=4000)))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(worker.at_rest)


async def test_a_vector_is_the_one_that_the_open_protocol_gives(worker: Serving) -> None:
    answer = await worker.vllm.Embed(
        vllm.EmbedRequest(tokenized=vllm.TokenizedInput(input_ids=[2, 4, 5, 3]))
    )
    request = pb.ModelInferRequest(model_name="embed")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"the cat")
    (output,) = (await worker.oip.ModelInfer(request)).outputs
    assert np.allclose(answer.embedding, output.contents.fp32_contents, atol=1e-6)
    assert (answer.embedding_dim, answer.prompt_tokens) == (8, 4)


async def test_a_vector_of_nothing_is_refused(worker: Serving) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.vllm.Embed(vllm.EmbedRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_gateways_ask_of_the_model(worker: Serving) -> None:
    info = await worker.vllm.GetModelInfo(vllm.GetModelInfoRequest())
    assert (info.served_model_name, info.is_generation) == ("counter", True)
    assert (info.max_context_length, info.vocab_size) == (4096, 10_000)
    assert list(info.eos_token_ids) == [2]
    assert "/" not in info.model_path + info.tokenizer_path
    server = await worker.vllm.GetServerInfo(vllm.GetServerInfoRequest())
    assert (server.data_parallel_size, server.max_num_seqs) == (1, 64)
    named = (("deepseek-model", "embed"),)
    info = await worker.vllm.GetModelInfo(vllm.GetModelInfoRequest(), metadata=named)
    assert (info.served_model_name, info.is_generation) == ("embed", False)


@pytest.mark.parametrize(
    ("name", "code"),
    [("embed", "INVALID_ARGUMENT"), ("nobody", "NOT_FOUND")],
    ids=["another task", "unknown"],
)
async def test_a_named_model_must_generate(worker: Serving, name: str, code: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await items(worker.vllm.Generate(ask(), metadata=(("deepseek-model", name),)))
    assert caught.value.code().name == code


async def test_health_follows_the_drain(worker: Serving) -> None:
    worker.fleet.proven("counter", generation=worker.fleet.generation)
    assert (await worker.vllm.HealthCheck(vllm.HealthCheckRequest())).healthy
    worker.drain.start()
    health = await worker.vllm.HealthCheck(vllm.HealthCheckRequest())
    assert not health.healthy
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await items(worker.vllm.Generate(ask()))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_loads_are_the_engines(worker: Serving) -> None:
    worker.script.step_s = 0.01
    call = worker.vllm.Generate(ask(max_tokens=4000))
    await call.read()
    await eventually(lambda: worker.remote.stats()["counter"].running == 1)
    (load,) = (await worker.vllm.GetLoads(vllm.GetLoadsRequest())).loads
    assert (load.num_running_reqs, load.num_total_reqs, load.max_running_requests) == (1, 1, 64)
    assert 0 < load.token_usage < 1
    call.cancel()


async def test_calls_that_are_not_offered_are_unimplemented(worker: Serving) -> None:
    connection: Any = grpc.aio.insecure_channel(worker.target)
    async with connection as channel:
        for method in ("SubscribeKvEvents", "FlushCache", "GetTokenizer"):
            call = channel.unary_unary(f"/vllm.grpc.engine.VllmEngine/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
