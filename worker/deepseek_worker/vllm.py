"""VllmEngine: the service through which gateways reach models that generate.

Why it exists: gateways that give OpenAI's HTTP interface speak this protocol, so that no HTTP has
to be written here. It names no model: a call is for the first model of its kind that is
configured, or for the one that the metadata ``deepseek-model`` names.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import struct
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc.aio
from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_engine.client import (
    GenerationChunk,
    GenerationInfo,
    GeneratorStats,
    ModelInfo,
    check_request,
)
from deepseek_protos import vllm_engine_pb2 as pb
from deepseek_protos import vllm_engine_pb2_grpc

from deepseek_worker.answering import Answering
from deepseek_worker.config import Limits
from deepseek_worker.decoding import invalid
from deepseek_worker.fleet import Phase
from deepseek_worker.vllm_answers import Answer
from deepseek_worker.vllm_requests import embedding_request, generation_request
from deepseek_worker.vllm_tokenizer import archive, pieces

__all__ = ["MODEL_KEY", "VllmService"]

MODEL_KEY = "deepseek-model"
"""Metadata that names a model."""
_GENERATE = "generate"
_EMBED = "text-embedding"

_Context = grpc.aio.ServicerContext[Any, Any]


class VllmService(vllm_engine_pb2_grpc.VllmEngineServicer):
    """Answers VllmEngine for the models of one engine."""

    def __init__(
        self,
        answering: Answering,
        *,
        bundles: Mapping[str, str],
        limits: Limits,
        version: str,
    ) -> None:
        """Prepare.

        Args:
            answering: the engine and what counts requests.
            bundles: folders of the models' bundles by name.
            limits: what a request may ask for.
            version: of this release.
        """
        self._answering = answering
        self._bundles = bundles
        self._limits = limits
        self._version = version
        self._started = time.monotonic()
        self._received = 0.0
        self._running: dict[tuple[str, str], _Ending] = {}
        """What ends an answer, by connection and id of its request."""

    async def Generate(
        self, request: pb.GenerateRequest, context: _Context
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Generate; parts if they are wanted, then one last message.

        Raises:
            DeepseekError: with the code and the sentence for the caller.
        """
        self._received = time.time()
        name = self._name(context, _GENERATE)
        remaining = context.time_remaining
        ledger = self._answering.ledger
        with ledger.call(name, expired=lambda: remaining() == 0) as call:
            call.info = self._servable(name, _GENERATE)
            allowed = remaining()
            asked = generation_request(
                request,
                model=name,
                deadline=call.started
                + (self._answering.stream_deadline_s if allowed is None else allowed),
                limits=self._limits,
                start_tokens=call.info.generation.start_tokens if call.info.generation else (),
            )
            # How many tokens a text has is known when the answer is complete.
            answer = Answer(0 if isinstance(asked.prompt, str) else len(asked.prompt))
            with self._abortable(context, request.request_id) as ending:
                async with contextlib.aclosing(self._answering.engine.generate(asked)) as chunks:
                    while (chunk := await ending.next_of(chunks)) is not None:
                        call.generated(chunk)
                        part = answer.add(chunk)
                        if request.stream and chunk.token_ids:
                            yield pb.GenerateResponse(chunk=part)
            if not answer.ended:
                call.outcome("CANCELLED", "Aborted")
            yield pb.GenerateResponse(complete=answer.complete())

    async def Embed(self, request: pb.EmbedRequest, context: _Context) -> pb.EmbedResponse:
        """The vector of a text.

        Raises:
            DeepseekError: with the code and the sentence for the caller.
        """
        self._received = time.time()
        name = self._name(context, _EMBED)
        remaining = context.time_remaining
        with self._answering.ledger.call(name, expired=lambda: remaining() == 0) as call:
            info = call.info = self._servable(name, _EMBED)
            allowed = remaining()
            default = self._answering.default_deadline_s
            asked = embedding_request(
                request,
                info,
                deadline=call.started + (default if allowed is None else allowed),
                limits=self._limits,
            )
            check_request(asked, info)
            response = await self._answering.engine.infer(asked)
            call.timing = response.timing
            (vector,) = response.outputs
            numbers = struct.unpack(f"<{vector.shape[1]}f", vector.data)
            return pb.EmbedResponse(
                embedding=numbers,
                prompt_tokens=len(request.tokenized.input_ids),
                embedding_dim=len(numbers),
            )

    async def HealthCheck(
        self, request: pb.HealthCheckRequest, context: _Context
    ) -> pb.HealthCheckResponse:
        """Whether the model answers now; why not, otherwise."""
        name = self._name(context, _GENERATE, _EMBED)
        status = self._answering.fleet.status(name)
        if self._answering.ledger.draining:
            return pb.HealthCheckResponse(healthy=False, message="The worker is shutting down.")
        return pb.HealthCheckResponse(
            healthy=status.phase is Phase.READY, message=status.message or "OK"
        )

    async def Abort(self, request: pb.AbortRequest, context: _Context) -> pb.AbortResponse:
        """End answers of this connection; ids that it has not given are ignored."""
        for request_id in request.request_ids:
            ending = self._running.get((context.peer(), request_id))
            if ending is not None:
                ending.set()
        return pb.AbortResponse()

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: _Context
    ) -> pb.GetModelInfoResponse:
        """The model.

        Raises:
            InferenceError: NOT_FOUND, there is none; UNAVAILABLE, it never loaded yet.
        """
        info = self._answering.fleet.known(self._name(context, _GENERATE, _EMBED), "")
        message = pb.GetModelInfoResponse(
            # A network client never sees a path; gateways ask for the tokenizer's files.
            model_path=info.name,
            served_model_name=info.name,
            model_type=info.model_type,
            is_generation=info.generation is not None,
        )
        known = info.generation
        if known is not None:
            message.max_context_length = known.context
            message.vocab_size = known.vocabulary
            message.eos_token_ids.extend(known.end_tokens)
            message.max_req_input_len = known.context - 1
        return message

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: _Context
    ) -> pb.GetServerInfoResponse:
        """The worker."""
        known = self._known(self._name(context, _GENERATE, _EMBED))
        return pb.GetServerInfoResponse(
            active_requests=len(self._running),
            last_receive_timestamp=self._received,
            uptime_seconds=time.monotonic() - self._started,
            server_type="deepseek",
            data_parallel_size=1,
            max_num_seqs=known.max_sequences if known else 0,
        )

    async def GetLoads(self, request: pb.GetLoadsRequest, context: _Context) -> pb.GetLoadsResponse:
        """Requests and cache of the model, as the engine last reported them."""
        name = self._name(context, _GENERATE, _EMBED)
        stats = self._answering.engine.stats().get(name)
        running, waiting = (stats.running, stats.waiting) if stats else (0, 0)
        counts = (stats.generation if stats else None) or GeneratorStats()
        usage = counts.blocks_used / max(1, counts.blocks_total)
        prompts = counts.prompt_tokens + counts.cached_tokens
        known = self._known(name)
        load = pb.SchedulerLoad(
            num_running_reqs=running,
            num_waiting_reqs=waiting,
            num_total_reqs=running + waiting,
            token_usage=usage,
            utilization=usage,
            cache_hit_rate=counts.cached_tokens / max(1, prompts),
            max_running_requests=known.max_sequences if known else 0,
        )
        now = datetime.datetime.now(datetime.UTC).isoformat()
        return pb.GetLoadsResponse(
            timestamp=now, version=self._version, dp_rank_count=1, loads=[load]
        )

    async def GetTokenizer(
        self, request: pb.GetTokenizerRequest, context: _Context
    ) -> AsyncGenerator[pb.GetTokenizerChunk, None]:
        """The files of the model's tokenizer.

        Raises:
            InferenceError: NOT_FOUND, there is no such model; FAILED_PRECONDITION, it has none.
        """
        info = self._answering.fleet.known(self._name(context, _GENERATE, _EMBED), "")
        folder = Path(self._bundles[info.name])
        # Reading and packing 30 MB takes a second, which the event loop does not have.
        content = await asyncio.get_running_loop().run_in_executor(None, archive, folder)
        for piece in pieces(content):
            yield piece

    def _name(self, context: _Context, *tasks: str) -> str:
        """The model of a call: the one it names, else the first of these tasks.

        Raises:
            InferenceError: NOT_FOUND: there is no such model.
        """
        for key, value in context.invocation_metadata() or ():
            if key == MODEL_KEY:
                return value if isinstance(value, str) else value.decode(errors="replace")
        fleet = self._answering.fleet
        for task in tasks:
            for status in fleet.statuses():
                if status.info is not None and status.info.task == task:
                    return status.name
        if any(status.info is None or not status.info.task for status in fleet.statuses()):
            # What the models do is known when they are loaded.
            return fleet.names[0]
        raise InferenceError(
            f"No model of this worker has the task {' or '.join(tasks)}.",
            code=ErrorCode.NOT_FOUND,
            hint=f"It serves {', '.join(fleet.names)}.",
            reason="UnknownModel",
        )

    def _servable(self, name: str, task: str) -> ModelInfo:
        info = self._answering.fleet.servable(name, "")
        if info.task != task:
            raise invalid(
                f"The task of the model '{name}' is {info.task}, not {task}.",
                hint=f"Name another model with the metadata '{MODEL_KEY}'.",
                reason="WrongTask",
            )
        return info

    def _known(self, name: str) -> GenerationInfo | None:
        info = self._answering.fleet.status(name).info
        return info.generation if info is not None else None

    @contextlib.contextmanager
    def _abortable(self, context: _Context, request_id: str) -> Iterator[_Ending]:
        """Let `Abort` end the answer that is made in the block."""
        ending = _Ending()
        if not request_id:
            yield ending
            return
        # Ids are the caller's own: another connection can neither use them up nor end them.
        key = (context.peer(), request_id)
        if key in self._running:
            raise invalid(
                "A request with this request_id is being answered.",
                hint="Give every request an id of its own.",
                reason="DuplicateRequest",
            )
        self._running[key] = ending
        try:
            yield ending
        finally:
            del self._running[key]


class _Ending:
    """Ends an answer from outside, between two of its parts or while one is waited for."""

    def __init__(self) -> None:
        self._ended = False
        self._waiting: asyncio.Timeout | None = None

    def set(self) -> None:
        """End it now."""
        self._ended = True
        if self._waiting is not None:
            self._waiting.reschedule(0)

    async def next_of(
        self, chunks: AsyncGenerator[GenerationChunk, None]
    ) -> GenerationChunk | None:
        """The next part; None when it is complete or ended."""
        if self._ended:
            return None
        try:
            async with asyncio.timeout(None) as self._waiting:
                return await anext(chunks, None)
        except TimeoutError:
            return None
        finally:
            self._waiting = None
