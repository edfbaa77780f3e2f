"""What runs beside an end-to-end test besides `cluster_sampler`: a stream of requests.

And how a test reaches a Service at all.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from deepseek import Client, DeepseekError

from tests.support.cluster import Space, eventually, program

__all__ = ["Load", "answers", "ask", "percentile", "reach"]

_GRPC_PORT = 8001


class Load:
    """Sends one request after the other to a model of `write_echo` or `write_slow`.

    A Service chooses a pod for each connection, so every request brings its own; with ``kept``
    each thread stays with one connection for as long as the server lets it, as most clients do.
    """

    def __init__(self, target: str, model: str, *, threads: int = 2, kept: bool = False) -> None:
        self.ok = 0
        self.failures: list[str] = []
        self._target, self._model, self._kept = target, model, kept
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        with Client(self._target) as own:
            while not self._stop.is_set():
                try:
                    if self._kept:
                        echo(own, self._model)
                    else:
                        ask(self._target, self._model)
                except DeepseekError as failed:
                    with self._lock:
                        self.failures.append(f"{time.monotonic():.2f} {failed.reason}: {failed}")
                else:
                    with self._lock:
                        self.ok += 1


def ask(target: str, model: str, *, timeout_s: float = 30) -> None:
    """One inference over a connection of its own; see `echo`."""
    with Client(target) as client:
        echo(client, model, timeout_s=timeout_s)


def echo(client: Client, model: str, *, timeout_s: float = 30) -> None:
    """One inference of a model that gives back what it gets.

    Raises:
        DeepseekError: it failed.
    """
    given = np.arange(16, dtype=np.float32).reshape(1, 16)
    found = client.infer(model, {"IN": given}, timeout=timeout_s)
    if not np.array_equal(found["OUT"], given):
        raise AssertionError(f"{model} gave something else: {found['OUT']}")


def answers(target: str, model: str, *, text: str = "") -> bool:
    """Whether an inference through this address is answered now; with a text, an encoder's."""
    try:
        if text:
            with Client(target) as client:
                client.embed(model, text, timeout=5)
        else:
            ask(target, model, timeout_s=5)
    except DeepseekError:
        return False
    return True


@contextlib.contextmanager
def reach(space: Space, service: str) -> Iterator[str]:
    """An address of a Service that works from this machine: its own, or a forwarded port."""
    found = eventually(lambda: space.get("Service", service), what=f"there is no Service {service}")
    address = (found["spec"]["clusterIP"], _GRPC_PORT)
    try:
        socket.create_connection(address, timeout=2).close()
    except ConnectionRefusedError:
        # kube-proxy refuses where a Service has no ready pod: the address itself is reachable.
        yield f"{address[0]}:{address[1]}"
    except OSError:
        with _forwarded(space, service) as target:
            yield target
    else:
        yield f"{address[0]}:{address[1]}"


@contextlib.contextmanager
def _forwarded(space: Space, service: str) -> Iterator[str]:
    kubeconfig = str(space.kube.kubeconfig)
    command = [program("kubectl"), "--kubeconfig", kubeconfig, "-n", space.name, "port-forward"]
    process = subprocess.Popen(
        [*command, f"service/{service}", f":{_GRPC_PORT}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert match, f"kubectl port-forward said {line!r}"
        yield f"127.0.0.1:{match[1]}"
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)]
