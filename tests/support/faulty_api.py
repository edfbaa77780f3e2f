"""A door before a real API server that answers some requests with a fault, as an overloaded or
contended server does.

Everything else goes on to the server as the administrator's, watches included. Plain HTTP on a
loopback port; the faults are counted, so that a test can tell that it tested something.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import yaml
from aiohttp import web

from tests.support.apiserver import ApiServer

__all__ = ["FAULTS", "Choose", "FaultyApi"]

FAULTS: Final[Mapping[int, tuple[str, Mapping[str, str]]]] = {
    409: ("Conflict", {}),
    429: ("TooManyRequests", {"Retry-After": "1"}),
    500: ("InternalError", {}),
    503: ("ServiceUnavailable", {}),
}
"""Reason and headers of each fault, as the API server gives them."""

Choose = Callable[[str, str, int], int | None]
"""From method, path and the number of requests before it: the fault's code, or None."""
_HOP: Final = {"connection", "host", "transfer-encoding", "content-length", "accept-encoding"}


class FaultyApi:
    """A context manager; `kubeconfig` leads through the door.

    Args:
        api: the server behind it.
        folder: where the settings file is written.
        choose: which requests get a fault.
    """

    def __init__(self, api: ApiServer, folder: Path, choose: Choose) -> None:
        self._api, self._choose = api, choose
        self.given: Counter[int] = Counter()
        """Faults by code."""
        self.kubeconfig = folder / "faulty.kubeconfig"
        self._requests = 0
        self._open = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._open.wait(20), "the door does not open"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)

    async def _main(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        user = yaml.safe_load(self._api.kubeconfig.read_text())["users"][0]["user"]
        context = ssl.create_default_context()
        # The server's certificate is the test's own.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(user["client-certificate"], user["client-key"])
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        ) as self._session:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._write_settings(runner.addresses[0][1])
            self._open.set()
            await self._end.wait()
            await runner.cleanup()

    def _write_settings(self, port: int) -> None:
        config = yaml.safe_load(self._api.kubeconfig.read_text())
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
        config["users"][0]["user"] = {}
        self.kubeconfig.write_text(yaml.safe_dump(config))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        code = self._choose(request.method, request.path, self._requests)
        self._requests += 1
        if code is not None:
            self.given[code] += 1
            return _fault(code)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        async with self._session.request(
            request.method,
            self._api.url + request.path_qs,
            headers=headers,
            data=await request.read() or None,
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            # A watch whose client is gone ends like that.
            with contextlib.suppress(ConnectionError):
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response


def _fault(code: int) -> web.Response:
    reason, headers = FAULTS[code]
    status: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": "made by a test",
        "reason": reason,
        "code": code,
    }
    return web.Response(
        status=code,
        text=json.dumps(status),
        content_type="application/json",
        headers=dict(headers),
    )
