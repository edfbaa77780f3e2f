"""The HTTP server of a worker: probes and metrics.

Why it exists: kubelets and Prometheus speak HTTP. Every probe answers JSON that says why, so that a
person with ``curl`` learns the cause too. The REST form of inference will live on the same port.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from deepseek_worker.fleet import Fleet, Phase
from deepseek_worker.grpc_server import port_error

__all__ = ["HttpServer"]

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PATHS = ("/startupz", "/livez", "/readyz", "/metrics")


class HttpServer:
    """Answers ``/startupz``, ``/livez``, ``/readyz`` and ``/metrics``."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        draining: Callable[[], bool],
        engine_silent_s: Callable[[], float],
        liveness_grace_s: float,
        exposition: Callable[[], bytes],
    ) -> None:
        """Prepare; `start` binds the port.

        Args:
            fleet: the models and their states.
            draining: whether the worker is stopping.
            engine_silent_s: seconds since the engine gave a sign of life.
            liveness_grace_s: how long it may be silent before the worker counts as dead, seconds.
            exposition: metrics in the text format of Prometheus.
        """
        self._fleet = fleet
        self._draining = draining
        self._engine_silent_s = engine_silent_s
        self._liveness_grace_s = liveness_grace_s
        self._exposition = exposition
        application = web.Application(middlewares=[_friendly_errors])
        handlers = (self._startupz, self._livez, self._readyz, self._metrics)
        application.add_routes(
            [web.get(path, handler) for path, handler in zip(_PATHS, handlers, strict=True)]
        )
        application.on_response_prepare.append(_without_server_header)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)

    async def start(self, *, host: str, port: int) -> int:
        """Listen, and give the port.

        Raises:
            ConfigurationError: the address cannot be used.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise port_error(
                error, host=host, port=port, purpose="HTTP", flag="--http-port"
            ) from None
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _startupz(self, request: web.Request) -> web.Response:
        return self._state(ok=self._fleet.settled(), good="started", bad="starting")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self._draining():
            return self._state(ok=False, good="", bad="stopping")
        return self._state(ok=self._fleet.ready(), good="ready", bad="not ready")

    async def _livez(self, request: web.Request) -> web.Response:
        silent_s = self._engine_silent_s()
        if silent_s > self._liveness_grace_s:
            reason = f"The engine has given no sign of life for {silent_s:.0f} seconds."
            return _json({"status": "dead", "reason": reason}, status=503)
        return _json({"status": "alive"})

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _state(self, *, ok: bool, good: str, bad: str) -> web.Response:
        models = {
            status.name: {"state": str(status.phase)}
            | (
                {}
                if status.phase is Phase.READY
                else {"reason": status.reason, "message": status.message}
            )
            for status in self._fleet.statuses()
        }
        body = {"status": good if ok else bad, "models": models}
        return _json(body, status=200 if ok else 503)


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body) + b"\n", status=status, content_type="application/json"
    )


@web.middleware
async def _friendly_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        text = f"There is nothing here. This port answers {', '.join(_PATHS)}; inference is gRPC."
        return _json({"error": text}, status=404)
    except web.HTTPMethodNotAllowed:
        return _json({"error": "Only GET and HEAD are answered here."}, status=405)


async def _without_server_header(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("Server", None)
