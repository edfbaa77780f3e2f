"""The one place where exceptions of gRPC handlers become statuses.

Why it exists: gRPC sends the text of an uncaught exception to the client, with names, paths and
values in it. Every handler of the server is wrapped here, so that a client sees a code and a
sentence, and an unforeseen error only as an id that the log explains.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio
from deepseek_api.errors import DeepseekError

from deepseek_worker.decoding import invalid
from deepseek_worker.grpc_status import status_code, trailing_details

__all__ = ["StatusInterceptor"]

logger = logging.getLogger(__name__)

_MAX_SENTENCE = 2000
"""Statuses travel in metadata, of which a peer takes 8 KiB by default."""

Context = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    _ServerInterceptor = grpc.aio.ServerInterceptor[Any, Any]
else:  # generic for type checkers only
    _ServerInterceptor = grpc.aio.ServerInterceptor


_CONSTRUCTORS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class _Undecodable:
    """Stands for a request whose bytes are no message of the expected type."""


class StatusInterceptor(_ServerInterceptor):
    """Maps every exception of every handler to a status."""

    def __init__(self) -> None:
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Give the handler of a call, wrapped."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return handler  # an unknown method: gRPC answers UNIMPLEMENTED
            wrapped = self._wrapped[method] = _wrap(handler)
        return wrapped


def _wrap(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    inner = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    behaviour = _streaming(inner) if handler.response_streaming else _unary(inner)
    make: Any = _CONSTRUCTORS[handler.request_streaming, handler.response_streaming]
    wrapped: grpc.RpcMethodHandler[Any, Any] = make(
        behaviour,
        request_deserializer=_tolerant(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )
    return wrapped


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def tolerant(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:  # protobuf raises several kinds; the handler turns it into a status
            return _Undecodable()

    return tolerant


def _checked(request: Any) -> Any:
    if isinstance(request, _Undecodable):
        raise invalid("The request is not a valid protobuf message of this method.")
    return _checked_items(request) if hasattr(request, "__aiter__") else request


async def _checked_items(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield _checked(item)


def _unary(inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await inner(_checked(request), context)
        except Exception as error:
            await _abort(context, error)

    return call


def _streaming(inner: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            # Closed here and now when the client goes: what runs for it must not wait for the
            # interpreter to notice.
            async with contextlib.aclosing(inner(_checked(request), context)) as items:
                async for item in items:
                    yield item
        except Exception as error:
            await _abort(context, error)

    return call


async def _abort(context: Context, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, DeepseekError):
        sentence = str(error)[:_MAX_SENTENCE]
        await context.abort(status_code(error.code), sentence, trailing_details(error))
    incident = uuid.uuid4().hex[:12]
    logger.error("unexpected error", exc_info=error, extra={"incident": incident})
    await context.abort(
        grpc.StatusCode.INTERNAL,
        f"An unexpected error happened in the worker. Its log has the details under {incident}.",
    )
