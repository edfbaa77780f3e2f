"""``/healthz`` and ``/metrics``.

Why it exists: both are answered by the event loop that does the work, so that a loop that hangs
fails its probe and metrics are read between two steps, never in the middle of one. A failing probe
says why in its body; it is logged when the verdict changes and not at every probe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from deepseek_operator.liveness import Unhealthy

__all__ = ["Endpoints"]

_log = logging.getLogger(__name__)
_SHUTDOWN_S: Final = 1.0


class Endpoints:
    """Two HTTP servers on all addresses.

    Args:
        check: raises `Unhealthy` when the operator does not do its work.
        registry: the metrics.
        health_port: port of ``/healthz``.
        metrics_port: port of ``/metrics``.
    """

    def __init__(
        self,
        *,
        check: Callable[[], None],
        registry: CollectorRegistry,
        health_port: int,
        metrics_port: int,
    ) -> None:
        self._check = check
        self._registry = registry
        self._ports = {
            "/healthz": (health_port, self._healthz),
            "/metrics": (metrics_port, self._metrics),
        }
        self._runners: list[web.AppRunner] = []
        self._verdict = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: a port is taken.
        """
        for path, (port, handler) in self._ports.items():
            application = web.Application()
            application.router.add_get(path, handler)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_S)
            self._runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, port=port).start()

    async def stop(self) -> None:
        """Close both."""
        for runner in self._runners:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        verdict = ""
        try:
            self._check()
        except Unhealthy as error:
            verdict = str(error)
        if verdict != self._verdict:
            _log.warning("the operator is %s", f"not healthy: {verdict}" if verdict else "healthy")
            self._verdict = verdict
        return web.Response(text=verdict or "ok", status=500 if verdict else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
