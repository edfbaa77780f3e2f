"""The engine's side of the unix socket.

Why it exists: it translates between frames and `Engine`, and nothing else. It sends a heartbeat
twice a second to every front end that said hello, so that a front end can tell a busy engine from
a dead or a stuck one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

import msgspec
import zmq
from deepseek_api.errors import ConfigurationError, DeepseekError, QueueFullError

from deepseek_engine import wire
from deepseek_engine.engine import Engine
from deepseek_engine.generation.requests import GenerationChunk
from deepseek_engine.messages import Buffer
from deepseek_engine.sockets import CallbackSocket
from deepseek_engine.streaming import Sender

__all__ = ["EngineServer"]

logger = logging.getLogger(__name__)

_MAX_IN_FLIGHT = 2048
_HWM = 2 * _MAX_IN_FLIGHT
_MAX_PATH_BYTES = 100


class EngineServer:
    """Answers front ends on a unix socket."""

    def __init__(self, engine: Engine, path: str, *, heartbeat_s: float = 0.5) -> None:
        """Prepare a server.

        Args:
            engine: answers the requests.
            path: of the socket; the caller made its folder, which only he may enter.
            heartbeat_s: seconds between heartbeats.
        """
        self._engine = engine
        self._path = path
        self._heartbeat_s = heartbeat_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._peers: set[bytes] = set()
        self._requests: dict[tuple[bytes, int], asyncio.Task[None]] = {}
        self._senders: dict[tuple[bytes, int], Sender] = {}
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind the socket and begin to answer.

        Raises:
            ConfigurationError: the socket cannot be bound.
        """
        if not self._path or len(self._path.encode()) > _MAX_PATH_BYTES:
            raise ConfigurationError(
                f"The socket's path must have 1 to {_MAX_PATH_BYTES} bytes.",
                hint="The system's limit for unix sockets is 107; choose a shorter folder.",
            )
        socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, _HWM),
            (zmq.RCVHWM, _HWM),
            # A front end that is gone or does not read must be an error, not a silent loss.
            (zmq.ROUTER_MANDATORY, 1),
        ):
            socket.setsockopt(option, value)
        # The mask is in force when the socket file appears: there is no moment with other rights.
        mask = os.umask(0o177)
        try:
            socket.bind(f"ipc://{self._path}")
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise ConfigurationError(
                f"The engine's socket cannot be opened: {error.strerror}.",
                hint="Its folder must exist and belong to this user.",
            ) from error
        finally:
            os.umask(mask)
        self._socket = CallbackSocket(socket, self._receive)
        self._beating = asyncio.create_task(self._beat(), name="engine-heartbeat")

    async def close(self, *, linger_ms: int = 0) -> None:
        """Stop answering and remove the socket.

        Args:
            linger_ms: how long answers that were sent may take to leave, milliseconds.
        """
        tasks = [*self._requests.values(), *filter(None, [self._beating])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close(linger_ms=linger_ms)
        self._context.term()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    async def drain(self) -> None:
        """Wait until every request that was received is answered."""
        while self._requests:
            await asyncio.wait(list(self._requests.values()))

    def _receive(self, message: Sequence[zmq.Frame]) -> None:
        peer, *frames = message
        try:
            header = wire.decode_client(frames[0].buffer)
            self._dispatch(peer.bytes, header, [frame.buffer for frame in frames[1:]])
        # A front end checks sampling settings before it sends them; decoding checks them again.
        except (msgspec.DecodeError, ValueError, IndexError, DeepseekError):
            logger.exception("unreadable message from a front end")

    def _dispatch(self, peer: bytes, message: wire.ClientMessage, frames: list[memoryview]) -> None:
        if isinstance(message, wire.Hello):
            self._peers.add(peer)
            self._send_heartbeat(peer)
        elif isinstance(message, wire.Cancel):
            task = self._requests.get((peer, message.id))
            if task is not None:
                task.cancel()
        elif isinstance(message, wire.Taken):
            sender = self._senders.get((peer, message.id))
            if sender is not None:
                sender.taken()
        elif len(self._requests) >= _MAX_IN_FLIGHT:
            error = QueueFullError("Too many requests are in flight.", retry_after_s=0.1)
            self._send(peer, wire.encode_failure(message.id, error))
        else:
            key = (peer, message.id)
            if isinstance(message, wire.Generate):
                answering = self._generate(peer, message)
            else:
                answering = self._answer(peer, message, frames)
            task = asyncio.create_task(answering)
            self._requests[key] = task
            task.add_done_callback(lambda _: self._requests.pop(key, None))

    async def _answer(self, peer: bytes, message: wire.Infer, frames: list[memoryview]) -> None:
        with self._failing(peer, message.id):
            request = wire.decode_request(message, frames)
            reply = wire.encode_response(message.id, await self._engine.infer(request))
            self._send(peer, reply)

    async def _generate(self, peer: bytes, message: wire.Generate) -> None:
        key = (peer, message.id)

        def send(chunk: GenerationChunk) -> None:
            self._send(peer, [wire.encode(wire.Chunk(message.id, chunk))])

        sender = self._senders[key] = Sender(send, streams=lambda: len(self._senders))
        try:
            with self._failing(peer, message.id):
                await sender.run(self._engine.generate(message.request))
        finally:
            del self._senders[key]

    @contextlib.contextmanager
    def _failing(self, peer: bytes, number: int) -> Iterator[None]:
        """Answer with a failure when the block raises."""
        try:
            yield
        except DeepseekError as error:
            self._send(peer, wire.encode_failure(number, error))
        # The caller must get an answer, and only the log may tell what happened.
        except Exception:
            logger.exception("request failed")
            hidden = DeepseekError(
                "The request failed.", hint="The log of the engine has the cause."
            )
            self._send(peer, wire.encode_failure(number, hidden))

    async def _beat(self) -> None:
        while True:
            for peer in list(self._peers):
                self._send_heartbeat(peer)
            await asyncio.sleep(self._heartbeat_s)

    def _send_heartbeat(self, peer: bytes) -> None:
        self._send(peer, [wire.encode(wire.HeartbeatMessage(self._engine.heartbeat()))])

    def _send(self, peer: bytes, frames: list[Buffer]) -> None:
        """Send without waiting: a front end that does not read must not hold up the others."""
        try:
            self._socket.send([peer, *frames])
        except zmq.ZMQError:
            self._drop(peer)

    def _drop(self, peer: bytes) -> None:
        if peer in self._peers:
            logger.warning("a front end is gone or does not read")
            self._peers.discard(peer)
        for (owner, _), task in list(self._requests.items()):
            if owner == peer:
                task.cancel()
