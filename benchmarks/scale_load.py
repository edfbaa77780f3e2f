"""The pipelines of a scale run: what is applied, when, and when all of it is there.

Why it exists: a look-up of every child after each apply would be more load than the operator is.
One watch for each kind of child notes when the server told of it, and pipelines are applied at
times that were fixed before, so that a slow answer cannot hide the next one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from deepseek_operator import labels
from deepseek_operator.observed import CHILD_KINDS
from deepseek_operator.resources import collection_path

from tests.support.pipelines_on_api import SOURCE

__all__ = ["ChildWatch", "Key", "at_fixed_times", "expected_children", "models"]

Key = tuple[str, str]
"""Namespace and name of a pipeline."""
_QUIET_S = 120.0
"""A watch tells about once a minute that it lives."""
_PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_PAUSE = threading.Event()


def models(count: int) -> list[dict[str, Any]]:
    """Models of one pipeline: one in three is autoscaled, one has two replicas, the rest one."""
    found = []
    for number in range(count):
        model: dict[str, Any] = {"name": f"m{number}", "type": "NLP", "source": SOURCE}
        model["task"] = "text-embedding"
        if number % 3 == 2:
            model["autoscaling"] = {"minReplicas": 1, "maxReplicas": 3}
        elif number == 0:
            model["replicas"] = 2
        found.append(model)
    return found


def expected_children(wanted: list[dict[str, Any]]) -> Counter[str]:
    """How many children of each kind a pipeline of these models has."""
    scaled = sum("autoscaling" in model for model in wanted)
    several = sum(model.get("replicas", 1) > 1 for model in wanted)
    return Counter(
        {
            "ServiceAccount": 1,
            "NetworkPolicy": 1,
            "ConfigMap": len(wanted),
            "Deployment": len(wanted),
            # One for clients, and a headless one.
            "Service": 2 * len(wanted),
            "HorizontalPodAutoscaler": scaled,
            "PodDisruptionBudget": scaled + several,
        }
    )


def at_fixed_times(start: Callable[[int], object], count: int, *, every_s: float) -> list[float]:
    """Call with 0, 1, 2, ... at fixed times whatever the calls take; gives the planned times.

    Raises:
        Exception: what a call raised.
    """
    begin = time.monotonic() + 0.1
    planned = [begin + number * every_s for number in range(count)]
    calls: list[Future[object]] = []
    with ThreadPoolExecutor(32) as pool:
        for number, at in enumerate(planned):
            _PAUSE.wait(max(0.0, at - time.monotonic()))
            calls.append(pool.submit(start, number))
        for call in calls:
            call.result()
    return planned


class ChildWatch:
    """Notes when all children of a pipeline were there for the first time; a context manager.

    Args:
        port: of the API server on this machine.
        context: how to speak to it.
        expected: children of a pipeline, by kind.
    """

    def __init__(self, port: int, context: ssl.SSLContext, expected: Counter[str]) -> None:
        self._port, self._context = port, context
        self.trouble = ""
        self._expected = expected.total()
        self._seen: dict[Key, set[tuple[str, str]]] = {}
        self._complete: dict[Key, float] = {}
        self._alive: set[tuple[str, str, str]] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: dict[str, http.client.HTTPSConnection] = {}
        self._threads = [
            threading.Thread(target=self._follow, args=(kind,), name=f"watch {kind}")
            for kind in CHILD_KINDS
        ]

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
        for connection in list(self._open.values()):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def complete(self) -> dict[Key, float]:
        """When the last child of each finished pipeline came, monotonic seconds."""
        with self._lock:
            return dict(self._complete)

    def alive(self) -> int:
        """Children that exist now."""
        with self._lock:
            return len(self._alive)

    def note(self, kind: str, event: dict[str, Any], at: float) -> None:
        """Take an event of a watch."""
        metadata = event["object"]["metadata"]
        pipeline = (metadata.get("labels") or {}).get(labels.PIPELINE)
        if event["type"] not in {"ADDED", "MODIFIED", "DELETED"} or pipeline is None:
            return
        namespace, name = metadata["namespace"], metadata["name"]
        key = namespace, pipeline
        with self._lock:
            if event["type"] == "DELETED":
                self._alive.discard((kind, namespace, name))
                return
            self._alive.add((kind, namespace, name))
            seen = self._seen.setdefault(key, set())
            seen.add((kind, name))
            if len(seen) >= self._expected:
                self._complete.setdefault(key, at)

    def _follow(self, kind: str) -> None:
        while not self._stop.is_set():
            # A watch from version 0 begins with everything that exists.
            with self._lock:
                self._alive = {child for child in self._alive if child[0] != kind}
            try:
                for line in self._lines(kind):
                    self.note(kind, json.loads(line), time.monotonic())
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.trouble = f"{kind}: {error}"
            self._stop.wait(0.2)

    def _lines(self, kind: str) -> Iterator[bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, context=self._context, timeout=_QUIET_S
        )
        self._open[kind] = connection
        try:
            query = (
                "watch=true&resourceVersion=0&allowWatchBookmarks=true&timeoutSeconds=7200"
                f"&labelSelector={labels.MANAGED_BY}%3D{labels.OPERATOR_NAME}"
            )
            path = f"{collection_path(kind, None)}?{query}"
            connection.request("GET", path, headers={"Accept": _PARTIAL})
            answer = connection.getresponse()
            if answer.status != 200:
                raise http.client.HTTPException(f"{kind}: {answer.status} {answer.read()!r}")
            while not self._stop.is_set() and (line := answer.readline()):
                yield line
        finally:
            connection.close()
