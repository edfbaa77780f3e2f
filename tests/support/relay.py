"""A TCP address whose connections lead where a test says, as a Service's do.

A connection keeps its way; only new ones follow a changed target.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

__all__ = ["Relay"]


class Relay:
    """A context manager; `url` is its address."""

    def __init__(self, target: str, *, resets: int = 0) -> None:
        """Lead to a target.

        Args:
            target: ``host:port``; may be changed at any time.
            resets: this many of the first connections are reset as soon as they are made.
        """
        self.target = target
        self.connections = 0
        """Connections that were led on."""
        self._resets = resets
        self._door = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self._door.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _end(self._door)
        self._threads[0].join(10)
        for one in self._sockets:
            _end(one)
        for thread in self._threads[1:]:
            thread.join(10)
        for one in [self._door, *self._sockets]:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                outer, _ = self._door.accept()
                if self._resets:
                    self._resets -= 1
                    # With nothing to linger for, the peer sees a reset.
                    outer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    outer.close()
                else:
                    self._lead(outer)

    def _lead(self, outer: socket.socket) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            inner = socket.create_connection((host, int(port)))
        except ConnectionRefusedError:
            outer.close()
            return
        self.connections += 1
        self._sockets += [outer, inner]
        for ends in ((outer, inner), (inner, outer)):
            self._threads.append(threading.Thread(target=_copy, args=ends))
            self._threads[-1].start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
