"""The health service: ``grpc.health.v1`` with Check and Watch.

Why it exists: the reference servicer starts as SERVING, holds a lock while it writes to a watcher
(one that does not read blocks every change), and forgets the other watchers of a name when one
leaves. Messages and registration are the library's; only the bookkeeping is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc.aio
from deepseek_api.errors import ErrorCode, InferenceError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deepseek_worker.decoding import quoted

__all__ = ["Health"]

_Context = grpc.aio.ServicerContext[Any, Any]
_STATUS = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Serving states by service name; everything that is not set is unknown."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._changed = asyncio.Event()
        self._shut_down = False

    def update(self, serving: Mapping[str, bool]) -> None:
        """Set several states and tell the watchers; without effect after `shut_down`."""
        if self._shut_down or all(
            self._serving.get(name) is state for name, state in serving.items()
        ):
            return
        self._serving.update(serving)
        self._notify()

    def shut_down(self) -> None:
        """Set every state to NOT_SERVING for good."""
        self._serving = dict.fromkeys(self._serving, False)
        self._shut_down = True
        self._notify()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        """The state of one service.

        Raises:
            InferenceError: NOT_FOUND, the name is unknown.
        """
        if request.service not in self._serving:
            names = ", ".join(repr(name) for name in self._serving)
            raise InferenceError(
                f"There is no service {quoted(request.service)}.",
                hint=f"Health is known of {names}.",
                code=ErrorCode.NOT_FOUND,
            )
        return _STATUS(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state of one service now and after each change."""
        last = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != last:
                last = status
                yield _STATUS(status=status)
            else:
                await changed.wait()

    def _status(self, service: str) -> int:
        state = self._serving.get(service)
        if state is None:
            return int(_STATUS.SERVICE_UNKNOWN)
        return int(_STATUS.SERVING if state else _STATUS.NOT_SERVING)

    def _notify(self) -> None:
        # A fresh event for each change: a watcher holds the one it read before it looked, so no
        # change is lost and a slow watcher delays nobody.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
