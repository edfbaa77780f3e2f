"""What the leader of a rank group and its ranks tell each other, beside the tensors they exchange.

Why it exists: commands, heartbeats and failures must come through when an exchange between ranks
hangs, so that they have a channel of their own: one end of a unix socket pair for each rank, which
closes with either process. A message is one MessagePack header and the raw bytes of its tensors;
nothing is ever unpickled. Imports no torch: a rank answers before it has loaded that.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any

import msgspec

__all__ = ["Command", "Configure", "ControlSocket", "Failed", "Heartbeat", "Message", "Ready"]

Buffer = bytes | bytearray | memoryview
_LENGTH = struct.Struct("<II")
_MOST_HEADER = 16 << 20


class Configure(msgspec.Struct, tag="configure", array_like=True):
    """The first message to a rank: what it holds."""

    tensor_size: int
    pipeline_size: int
    device: str
    loader: str
    """``module:function`` that makes its `Shard`."""
    arguments: dict[str, Any]
    timeout_s: float
    threads: int


class Command(msgspec.Struct, tag="command", array_like=True):
    """Do something; the tensors follow."""

    name: str
    fields: dict[str, Any]
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    """Name, dtype as torch names it, shape."""


class Ready(msgspec.Struct, tag="ready", array_like=True):
    """The rank has loaded its part."""

    facts: dict[str, int]


class Heartbeat(msgspec.Struct, tag="heartbeat", array_like=True):
    """The rank lives."""


class Failed(msgspec.Struct, tag="failed", array_like=True):
    """The rank cannot go on, and ends."""

    code: str
    reason: str
    message: str
    hint: str | None


Message = Configure | Command | Ready | Heartbeat | Failed

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class ControlSocket:
    """One end; sends from any thread, receives from one."""

    def __init__(self, connected: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._socket = connected
        self._sending = threading.Lock()

    def send(self, message: Message, tensors: Sequence[Buffer] = ()) -> None:
        """Send a message; waits while the other end does not read.

        Raises:
            OSError: the other end is gone.
        """
        header = _encoder.encode(message)
        size = sum(len(tensor) for tensor in tensors)
        with self._sending:
            self._socket.sendall(_LENGTH.pack(len(header), size) + header)
            for tensor in tensors:
                self._socket.sendall(tensor)

    def receive(self) -> tuple[Message, bytearray] | None:
        """Wait for a message and the bytes of its tensors; None: the other end is gone.

        Raises:
            ValueError: the bytes are no message.
        """
        lengths = self._read(_LENGTH.size)
        if lengths is None:
            return None
        header_size, size = _LENGTH.unpack(lengths)
        if header_size > _MOST_HEADER:
            raise ValueError(f"a header of {header_size} bytes")
        header, data = self._read(header_size), self._read(size)
        if header is None or data is None:
            return None
        return _decoder.decode(header), data

    def close(self) -> None:
        """Close this end; a thread that waits in `receive` returns."""
        with contextlib.suppress(OSError):  # The other end may have been closed first.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            try:
                count = self._socket.recv_into(view[done:])
            except OSError:
                return None  # Reset by the other end, or closed by this one.
            if not count:
                return None
            done += count
        return data
