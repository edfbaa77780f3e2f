"""Models of a hub are fetched over HTTP; a small hub on loopback stands in for the public one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c0ffee" + "0" * 34
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": bytes(range(256)) * 400,
    "tokenizer.json": b"{}",
    "modeling_custom.py": b"raise SystemExit('code of the repository ran')",
    "pytorch_model.bin": b"never asked for when there are safetensors",
}

FETCH = """
import io, sys
from deepseek_api.errors import DeepseekError
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.sources.hub import download_snapshot
try:
    folder, commit = download_snapshot(sys.argv[1], sys.argv[2], Reporter(sys.stdout.buffer))
except DeepseekError as error:
    print(error.reason, error, file=sys.stderr)
    sys.exit(1)
print(folder, commit, file=sys.stderr)
"""


class Hub(BaseHTTPRequestHandler):
    """Answers what the hub's client asks for one repository, ``tiny/encoder``."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def _answer(self, *, body: bool) -> None:
        if self.path.startswith("/api/models/tiny/encoder/tree"):
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in FILES.items()
            ]
            self._send(200, json.dumps(listing).encode(), body=body, kind="application/json")
        elif self.path.startswith("/api/models/tiny/encoder"):
            siblings = [{"rfilename": name} for name in FILES]
            info = {"id": "tiny/encoder", "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(info).encode(), body=body, kind="application/json")
        elif self.path.startswith("/tiny/encoder/resolve/"):
            name = self.path.split("/", 5)[5].partition("?")[0]
            self._send(200, FILES[name], body=body, kind="application/octet-stream")
        else:
            error = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self._send(404, b"", body=body, kind="text/plain", headers=error)

    def _send(
        self,
        status: int,
        data: bytes,
        *,
        body: bool,
        kind: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(
    name: str, revision: str = "", *, endpoint: str, home: Path
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    return subprocess.run(
        [sys.executable, "-c", FETCH, name, revision],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_data_files_are_fetched_and_code_and_pickles_are_not(hub: str, tmp_path: Path) -> None:
    done = fetch("tiny/encoder", endpoint=hub, home=tmp_path)
    assert done.returncode == 0, done.stderr
    folder, commit = done.stderr.split()
    assert commit == COMMIT
    found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    wanted = ("config.json", "model.safetensors", "tokenizer.json")
    assert found == {name: FILES[name] for name in wanted}


def test_a_download_reports_its_bytes(hub: str, tmp_path: Path) -> None:
    done = fetch("tiny/encoder", endpoint=hub, home=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    largest = max(event["done"] for event in events if event.get("unit") == "B" and "done" in event)
    assert largest >= len(FILES["model.safetensors"])


def test_an_unknown_model_is_named(hub: str, tmp_path: Path) -> None:
    done = fetch("tiny/nothing", endpoint=hub, home=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("SourceNotFound The hub has no model 'tiny/nothing'.")


def test_a_hub_out_of_reach_names_the_way_out(tmp_path: Path) -> None:
    # Port 9 of loopback: nothing listens there, and the refusal is immediate.
    done = fetch("tiny/encoder", endpoint="http://127.0.0.1:9", home=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("HubUnreachable The weights of 'tiny/encoder' are on a model hub")
    assert "--weights random" in done.stderr
