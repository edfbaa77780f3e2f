"""The asynchronous client; the same calls as :class:`deepseek.Client`, to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

import grpc.aio
from deepseek_api.errors import EngineUnavailableError, InferenceError
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc

from deepseek._calls import (
    IMAGE_INPUT,
    MAX_ROWS,
    TEXT_INPUT,
    Image,
    Labels,
    batches,
    embeddings_of,
    images_of,
    labels_of,
    texts_of,
    top_k_parameters,
)
from deepseek._channel import TLSConfig, options, target_of, tls_of
from deepseek._generating import TIMEOUT_S, Chunk, Sampling, chunk_of, stream_request
from deepseek._rpc_errors import from_rpc_error
from deepseek._tensors import Array
from deepseek._wire import (
    Inputs,
    ModelMetadata,
    Parameter,
    Result,
    infer_request,
    metadata_of,
    result_of,
)

if TYPE_CHECKING:
    from deepseek_protos.inference_pb2_grpc import GRPCInferenceServiceAsyncStub as _Stub

Response = TypeVar("Response")
POLL_SECONDS = 0.1
SIDE_BY_SIDE = 4
"""Requests that one call of ``embed`` or ``classify`` has under way at a time."""


class AsyncClient:
    """Calls models on a server from one event loop.

    Arguments and errors are those of :class:`deepseek.Client`. Create it inside a running loop and
    use it with ``async with``. Batches of one ``embed`` or ``classify`` are sent a few at
    a time.
    """

    def __init__(
        self, url: str = "127.0.0.1:8001", *, timeout: float = 60.0, tls: TLSConfig | bool = False
    ) -> None:
        self.url = url
        self._timeout = timeout
        target, config = target_of(url), tls_of(url, tls)
        self._channel = (
            grpc.aio.insecure_channel(target, options(None))
            if config is None
            else grpc.aio.secure_channel(target, config.credentials(), options(config))
        )
        # One class serves both kinds of channel; only their types differ.
        self._stub = cast("_Stub", inference_pb2_grpc.GRPCInferenceServiceStub(self._channel))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._channel.close(None)

    async def embed(
        self, model: str, texts: str | Sequence[str], *, timeout: float | None = None
    ) -> Array:
        """Vectors of texts: float32 ``[texts, dimensions]``, in the order of the texts."""
        inputs = [{TEXT_INPUT: batch} for batch in batches(texts_of(texts), MAX_ROWS)]
        return embeddings_of(await self._infer_all(model, inputs, {}, timeout))

    async def classify(
        self,
        model: str,
        images: Image | Sequence[Image],
        *,
        top_k: int | None = None,
        timeout: float | None = None,
    ) -> list[Labels]:
        """For every picture its best labels with scores, best first."""
        parameters = top_k_parameters(top_k)
        # Reading files may block, so it happens in a thread.
        encoded = await asyncio.to_thread(images_of, images)
        inputs = [{IMAGE_INPUT: batch} for batch in batches(encoded, MAX_ROWS)]
        return labels_of(await self._infer_all(model, inputs, parameters, timeout))

    async def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> Result:
        """Run one request with inputs by name; see :meth:`deepseek.Client.infer`."""
        request = infer_request(
            model, inputs, outputs=outputs, parameters=parameters, request_id=request_id
        )
        return result_of(await self._call(self._stub.ModelInfer, request, timeout))

    async def generate(
        self,
        model: str,
        prompt: str | Sequence[int],
        *,
        timeout: float = TIMEOUT_S,
        request_id: str = "",
        **sampling: Unpack[Sampling],
    ) -> AsyncGenerator[Chunk, None]:
        """Generate; the answer comes in parts. See :meth:`deepseek.Client.generate`."""
        request = stream_request(model, prompt, sampling, request_id=request_id)

        async def requests() -> AsyncIterator[pb.ModelInferRequest]:
            yield request

        call = self._stub.ModelStreamInfer(requests(), timeout=timeout)
        try:
            async for item in call:
                yield chunk_of(item)
        except grpc.aio.AioRpcError as error:
            trailing = error.trailing_metadata() or ()
            raise from_rpc_error(error, url=self.url, trailing=trailing) from None
        finally:
            call.cancel()

    async def complete(
        self,
        model: str,
        prompt: str | Sequence[int],
        *,
        timeout: float = TIMEOUT_S,
        **sampling: Unpack[Sampling],
    ) -> str:
        """The whole text of an answer; see :meth:`generate`."""
        parts = [c.text async for c in self.generate(model, prompt, timeout=timeout, **sampling)]
        return "".join(parts)

    async def metadata(self, model: str, *, timeout: float | None = None) -> ModelMetadata:
        """Inputs, outputs and platform of a model."""
        request = pb.ModelMetadataRequest(name=model)
        return metadata_of(await self._call(self._stub.ModelMetadata, request, timeout))

    async def ready(self, model: str | None = None, *, timeout: float = 5.0) -> bool:
        """Whether the server (or one of its models) answers inferences now."""
        try:
            if model is None:
                request = pb.ServerReadyRequest()
                return bool((await self._call(self._stub.ServerReady, request, timeout)).ready)
            named = pb.ModelReadyRequest(name=model)
            return bool((await self._call(self._stub.ModelReady, named, timeout)).ready)
        except InferenceError:
            return False

    async def wait_ready(self, timeout: float = 120.0) -> None:
        """Return when the server is ready.

        Raises:
            EngineUnavailableError: it was not within ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not await self.ready():
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise EngineUnavailableError(
                f"The server at {self.url} was not ready within {timeout:g} s.",
                hint="Look at its log, or allow more time with 'timeout'.",
                reason="NotReady",
            ) from None

    async def _infer_all(
        self,
        model: str,
        inputs: Sequence[Inputs],
        parameters: Mapping[str, Parameter],
        timeout: float | None,
    ) -> list[Result]:
        """Answers to several requests, in order; the first failure withdraws the others."""
        # A few at a time keep the server busy; all at once would fill its queue.
        side_by_side = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(batch: Inputs) -> Result:
            async with side_by_side:
                return await self.infer(model, batch, parameters=parameters, timeout=timeout)

        tasks = [asyncio.create_task(one(batch)) for batch in inputs]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _call(
        self, method: Callable[..., Awaitable[Response]], request: Any, timeout: float | None
    ) -> Response:
        try:
            return await method(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.aio.AioRpcError as error:
            trailing = error.trailing_metadata() or ()
            raise from_rpc_error(error, url=self.url, trailing=trailing) from None
