"""The other end of a bare round trip: ``python -m benchmarks.echo ADDRESS`` sends all back."""

from __future__ import annotations

import sys
import threading

import msgspec
import zmq


def main(address: str) -> None:
    """Send every message back, its header decoded and encoded again, until standard input ends."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    socket.bind(address)
    threading.Thread(target=_serve, args=(socket,), daemon=True).start()
    sys.stdin.read()


def _serve(socket: zmq.Socket[bytes]) -> None:
    while True:
        sender, header, payload = socket.recv_multipart(copy=False)
        content = msgspec.msgpack.encode(msgspec.msgpack.decode(header.buffer))
        socket.send_multipart([sender, content, payload], copy=False)


if __name__ == "__main__":
    main(sys.argv[1])
