"""A loopback HTTP server that plays an API server, with a kubeconfig that leads to it.

It answers what a test tells it and keeps what it was asked. Everything else is not found, as the
API server says it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

Wire = dict[str, Any]
Reply = tuple[int, Wire]


class LoopbackApi:
    """A context manager; set `routes` before asking."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], Reply | Callable[[Wire], Reply]] = {}
        """Answers by method and path; a function gets the request's body."""
        self.asked: list[Wire] = []
        """Requests: method, path, query, headers, body."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self, folder: Path, *, namespace: str = "demo", token: str = "t0ken") -> Path:
        """Write a kubeconfig and give its path."""
        path = folder / "kubeconfig"
        context = {"cluster": "c", "user": "u", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [
                {"name": "here", "context": context},
                {"name": "there", "context": {**context, "namespace": "elsewhere"}},
            ],
        }
        path.write_text(json.dumps(config))
        return path

    def answer(self, method: str, path: str, body: Wire) -> Reply:
        """What a request gets."""
        reply = self.routes.get((method, path), failure(404, "NotFound", f"no {path}"))
        return reply(body) if callable(reply) else reply


def failure(code: int, reason: str, message: str, *, name: str | None = None) -> Reply:
    """A failure as the API server writes it."""
    status: Wire = {"kind": "Status", "status": "Failure", "reason": reason, "message": message}
    if name is not None:
        status["details"] = {"name": name}
    return code, {**status, "code": code}


def _handler(api: LoopbackApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            address = urlsplit(self.path)
            headers: Mapping[str, str] = {k.lower(): v for k, v in self.headers.items()}
            api.asked.append(
                {
                    "method": self.command,
                    "path": address.path,
                    "query": {k: v[0] for k, v in parse_qs(address.query).items()},
                    "headers": headers,
                    "body": body,
                }
            )
            code, reply = api.answer(self.command, address.path, body)
            text = json.dumps(reply).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = _answer

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    return Handler
