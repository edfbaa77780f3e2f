"""The engine as a front end sees it: another process behind a unix socket.

Why it exists: a front end must not own a device, and a device fault must not take the network
down. One DEALER socket carries everything; the socket's own monitor tells when the engine process
dies, so that every pending request fails at once instead of at its deadline. Use it from one
event loop only. It must never import NumPy or a runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import zmq
from deepseek_api.errors import (
    DeepseekError,
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
    QueueFullError,
)
from zmq.utils.monitor import parse_monitor_message

from deepseek_engine import wire
from deepseek_engine.generation.chunks import ChunkBuffer
from deepseek_engine.generation.requests import GenerationChunk, GenerationRequest
from deepseek_engine.messages import (
    Buffer,
    DeviceStats,
    Heartbeat,
    InferenceRequest,
    InferenceResponse,
    ModelInfo,
    ModelState,
    ModelStats,
)
from deepseek_engine.sockets import CallbackSocket

__all__ = ["RemoteEngine", "RemoteSettings"]

logger = logging.getLogger(__name__)

_DEADLINE_GRACE_S = 0.015
_WIDTH = 8
"""Bytes that a token or a character of a prompt counts for."""
_GONE = "The engine process stopped before it answered."
_STARTING = "The engine process is not running yet."
_RETRY = "It restarts by itself; try again in a few seconds."


@dataclass(frozen=True, kw_only=True)
class RemoteSettings:
    """Bounds of one connection."""

    max_in_flight: int = 1024
    """Requests that may be unanswered; one more is refused."""
    max_in_flight_bytes: int = 512 * 1024 * 1024
    """Bytes of tensors in unanswered requests; a request that would pass it is refused."""
    retry_after_s: float = 0.1
    """What a refused caller is told to wait, seconds."""
    reconnect_ms: int = 50
    """Pause between attempts to reach an engine that is not there, milliseconds."""


class _Answering(Protocol):
    """Whoever waits for an answer."""

    def fail(self, error: DeepseekError) -> None:
        """The answer will not come; without effect when it is there already."""
        ...


class _Whole:
    """Waits for one answer."""

    def __init__(self) -> None:
        self.future: asyncio.Future[InferenceResponse] = asyncio.get_running_loop().create_future()

    def put(self, response: InferenceResponse) -> None:
        if not self.future.done():
            self.future.set_result(response)

    def fail(self, error: DeepseekError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True)
class _Pending:
    answering: _Answering
    size: int


class RemoteEngine:
    """Reach an engine process through its unix socket.

    The object outlives engine processes: when one dies and another binds the same path, the
    connection comes back by itself.
    """

    def __init__(
        self,
        path: str,
        *,
        settings: RemoteSettings | None = None,
        on_heartbeat: Callable[[Heartbeat], None] | None = None,
        on_disconnect: Callable[[], None] | None = None,
    ) -> None:
        """Prepare a connection; `connect` opens it.

        Args:
            path: path of the engine's socket.
            settings: bounds; None takes the defaults.
            on_heartbeat: called in the event loop for each heartbeat.
            on_disconnect: called in the event loop when the engine process is gone.
        """
        self._path = path
        self._settings = settings or RemoteSettings()
        self._on_heartbeat = on_heartbeat
        self._on_disconnect = on_disconnect
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._pending: dict[int, _Pending] = {}
        self._pending_bytes = 0
        self._next_id = 0
        self._connected = False
        self._closed = False
        self._heartbeat: Heartbeat | None = None
        self._changed = asyncio.Event()
        self._opened = False

    async def connect(self) -> None:
        """Open the socket and begin to listen; returns at once, whether the engine is there."""
        socket = self._context.socket(zmq.DEALER)
        hwm = self._settings.max_in_flight * 2
        options = {
            zmq.LINGER: 0,
            zmq.SNDHWM: hwm,
            zmq.RCVHWM: hwm,
            zmq.RECONNECT_IVL: self._settings.reconnect_ms,
        }
        for option, value in options.items():
            socket.setsockopt(option, value)
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._raw = socket
        self._monitor = CallbackSocket(monitor, self._connection_changed)
        self._socket = CallbackSocket(socket, self._receive)
        self._opened = True
        socket.connect(f"ipc://{self._path}")

    @property
    def connected(self) -> bool:
        """Whether an engine process holds the other end now."""
        return self._connected

    @property
    def heartbeat(self) -> Heartbeat | None:
        """The last heartbeat of the present engine process; None before its first."""
        return self._heartbeat

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer."""
        return len(self._pending)

    def models(self) -> Mapping[str, ModelInfo]:
        """Models by name, as last reported; empty while no engine process is connected."""
        return self._heartbeat.models if self._heartbeat else {}

    def stats(self) -> Mapping[str, ModelStats]:
        """Counters by model name, as last reported."""
        return self._heartbeat.stats if self._heartbeat else {}

    def devices(self) -> Mapping[str, DeviceStats]:
        """Load and memory by device, as last reported."""
        return self._heartbeat.devices if self._heartbeat else {}

    async def wait_ready(self, *, timeout_s: float | None = None) -> Mapping[str, ModelInfo]:
        """Wait until no model is loading any more; some may have failed.

        Raises:
            EngineUnavailableError: the time is over, or the connection was closed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if self._closed:
                        raise EngineUnavailableError("The connection to the engine is closed.")
                    models = self.models()
                    if self._heartbeat and not any(
                        info.state is ModelState.LOADING for info in models.values()
                    ):
                        return models
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise EngineUnavailableError(
                f"The engine was not ready within {timeout_s:g} seconds.",
                hint="Large models load slowly; wait longer or look at the log.",
            ) from None

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Run one request in the engine process.

        Cancelling the awaiting task withdraws the request.

        Raises:
            QueueFullError: too many requests are in flight on this connection.
            EngineUnavailableError: there is no engine process, or it died before it answered.
            DeepseekError: what the engine answered.
        """
        answer = _Whole()
        size = sum(len(tensor.data) for tensor in request.inputs)
        with self._waiting(answer, size=size, deadline=request.deadline) as number:
            self._send(wire.encode_request(number, request))
            return await answer.future

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Generate in the engine process; see `EngineClient.generate`.

        Raises:
            QueueFullError: too many requests are in flight on this connection.
            EngineUnavailableError: there is no engine process, or it died before the last part.
            DeepseekError: what the engine answered.
        """
        buffer = ChunkBuffer()
        size = _WIDTH * len(request.prompt)
        with self._waiting(buffer, size=size, deadline=request.deadline) as number:
            self._send([wire.encode(wire.Generate(number, request))])
            while True:
                chunk = await buffer.get()
                if chunk.finish_reason is not None:
                    self._forget(number)
                    yield chunk
                    return
                # Only what was read makes room for more.
                self._send([wire.encode(wire.Taken(number))])
                yield chunk

    async def close(self) -> None:
        """Close the connection; requests in flight fail with UNAVAILABLE."""
        if self._closed:
            return
        self._closed = True
        self._connected = False
        self._fail_all("The connection to the engine was closed.", hint=None)
        self._changed.set()
        if self._opened:
            self._raw.disable_monitor()
            self._monitor.close()
            self._socket.close()
        self._context.term()

    @contextlib.contextmanager
    def _waiting(
        self, answering: _Answering, *, size: int, deadline: float | None
    ) -> Iterator[int]:
        """Number a request and wait for its answer in the block; withdraw it if none came."""
        self._admit(size)
        self._next_id += 1
        number = self._next_id
        self._pending[number] = _Pending(answering, size)
        self._pending_bytes += size
        timer = None
        if deadline is not None:
            # The engine answers an expired request itself; this is for one that cannot.
            loop = asyncio.get_running_loop()
            at = loop.time() + deadline - time.monotonic() + _DEADLINE_GRACE_S
            timer = loop.call_at(at, self._expire, number)
        try:
            yield number
        finally:
            if timer is not None:
                timer.cancel()
            if self._forget(number) and not self._closed and self._connected:
                # Still pending here means that the caller went away or the deadline passed.
                with contextlib.suppress(DeepseekError):
                    self._send([wire.encode(wire.Cancel(number))])

    def _admit(self, size: int) -> None:
        if self._closed or not self._connected:
            raise EngineUnavailableError(_STARTING, hint=_RETRY)
        settings = self._settings
        full = len(self._pending) >= settings.max_in_flight
        if full or self._pending_bytes + size > settings.max_in_flight_bytes:
            raise QueueFullError(
                f"Too many requests are in flight ({len(self._pending)}).",
                retry_after_s=settings.retry_after_s,
                hint="Send fewer requests at once.",
            )

    def _send(self, frames: list[Buffer]) -> None:
        try:
            self._socket.send(frames)
        except zmq.ZMQError as error:
            raise QueueFullError(
                "The engine does not take more requests now.",
                retry_after_s=self._settings.retry_after_s,
                hint="Send fewer requests at once.",
            ) from error

    def _forget(self, number: int) -> bool:
        pending = self._pending.pop(number, None)
        if pending is None:
            return False
        self._pending_bytes -= pending.size
        return True

    def _expire(self, number: int) -> None:
        pending = self._pending.get(number)
        if pending is not None:
            pending.answering.fail(
                InferenceError(
                    "The request was not answered before its deadline.",
                    code=ErrorCode.DEADLINE_EXCEEDED,
                    reason="DeadlineExceeded",
                )
            )

    def _fail_all(self, message: str, *, hint: str | None = _RETRY) -> None:
        for number in list(self._pending):
            self._fail(number, EngineUnavailableError(message, hint=hint))

    def _fail(self, number: int, error: DeepseekError) -> None:
        pending = self._pending.get(number)
        self._forget(number)
        if pending is not None:
            pending.answering.fail(error)

    def _connection_changed(self, frames: Sequence[zmq.Frame]) -> None:
        event = parse_monitor_message([frame.bytes for frame in frames])
        if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
            with contextlib.suppress(DeepseekError):
                self._send([wire.encode(wire.Hello())])
        elif self._connected:
            self._connected = False
            self._heartbeat = None
            self._fail_all(_GONE)
            if self._on_disconnect is not None:
                self._on_disconnect()
        self._changed.set()

    def _receive(self, frames: Sequence[zmq.Frame]) -> None:
        # A message that cannot be read is logged and dropped: it must not end the connection, and
        # its request still has its deadline.
        try:
            message = wire.decode_engine(frames[0].buffer)
            self._dispatch(message, [frame.buffer for frame in frames[1:]])
        except (msgspec.DecodeError, ValueError):
            logger.exception("unreadable message from the engine")

    def _dispatch(self, message: wire.EngineMessage, tensors: list[memoryview]) -> None:
        if isinstance(message, wire.Answer):
            response = wire.decode_response(message, tensors)
            pending = self._pending.get(message.id)
            self._forget(message.id)
            if pending is not None and isinstance(pending.answering, _Whole):
                pending.answering.put(response)
        elif isinstance(message, wire.Chunk):
            pending = self._pending.get(message.id)
            if pending is not None and isinstance(pending.answering, ChunkBuffer):
                pending.answering.put(message.chunk)
        elif isinstance(message, wire.Failure):
            self._fail(message.id, wire.error_of(message))
        elif self._connected:
            self._heartbeat = message.heartbeat
            self._changed.set()
            if self._on_heartbeat is not None:
                self._on_heartbeat(message.heartbeat)
