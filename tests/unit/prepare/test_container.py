"""Preparing in a container: one bundle in one folder, and the cause of a failure left behind.

The preparing process is a small program that does as a test says.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deepseek_engine.prepare import api, container

from tests.support import bundles
from tests.support.worker import until

CHILD = """
import json, os, pathlib, shutil, signal, sys

request = json.loads(sys.stdin.readline())
(pathlib.Path(sys.argv[1]) / "half.data").write_bytes(b"half a bundle")
print(json.dumps({"kind": "progress", "stage": "converting"}), flush=True)
mode = request["task"]
if mode == "make":
    shutil.copytree(sys.argv[2], sys.argv[1], dirs_exist_ok=True)
    print(json.dumps({"kind": "done", "digest": "sha256:" + "0" * 64}), flush=True)
elif mode == "wait":
    sys.stdin.read()
elif mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
else:
    print(json.dumps({"kind": "error", "message": "The hub does not answer.", "hint": "Wait.",
                      "code": "UNAVAILABLE", "reason": "HubUnreachable"}), flush=True)
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The termination log; preparing starts the program above."""
    script, ready = tmp_path / "child.py", bundles.write_echo(tmp_path / "ready")
    script.write_text(CHILD)
    monkeypatch.setattr(
        api,
        "_child_command",
        lambda staging: [sys.executable, str(script), str(staging), str(ready)],
    )
    monkeypatch.setenv("DEEPSEEK_TERMINATION_LOG", str(tmp_path / "termination-log"))
    return tmp_path / "termination-log"


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The program takes over a signal of this process; give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(tmp_path: Path, mode: str, **fields: Any) -> int:
    request = tmp_path / "prepare.json"
    request.write_text(json.dumps({"name": "m", "uri": "random://x", "task": mode, **fields}))
    return container.main([str(request), str(tmp_path / "models" / "m")])


def test_a_bundle_is_made_once_and_found_when_the_container_starts_again(
    log: Path, tmp_path: Path
) -> None:
    assert run(tmp_path, "make") == 0
    bundle = tmp_path / "models" / "m"
    assert bundles.digest_of(bundle) == bundles.digest_of(tmp_path / "ready")
    assert run(tmp_path, "fail") == 0, "nothing is prepared again"
    assert not log.exists()


def test_what_an_ended_container_left_is_removed(log: Path, tmp_path: Path) -> None:
    half = tmp_path / "models" / ".m-x1y2"
    half.mkdir(parents=True)
    assert run(tmp_path, "make") == 0
    assert not half.exists()


@pytest.mark.parametrize(
    ("mode", "reason", "says"),
    [
        ("fail", "HubUnreachable", "The hub does not answer. Wait."),
        ("killed", "OutOfMemory", "ran out of memory"),
    ],
    ids=["no source", "no memory"],
)
def test_a_failure_is_left_in_the_termination_log(
    log: Path, tmp_path: Path, mode: str, reason: str, says: str
) -> None:
    assert run(tmp_path, mode) == 1
    cause = json.loads(log.read_text())
    assert cause["reason"] == reason
    assert says in cause["message"]
    assert not (tmp_path / "models" / "m").exists()


@pytest.mark.parametrize(
    ("text", "says"), [(None, "cannot be read"), ("{", "is wrong"), ('{"name": "m"}', "`uri`")]
)
def test_a_wrong_request_is_left_in_the_termination_log(
    log: Path, tmp_path: Path, text: str | None, says: str
) -> None:
    request = tmp_path / "prepare.json"
    if text is not None:
        request.write_text(text)
    assert container.main([str(request), str(tmp_path / "m")]) == 1
    cause = json.loads(log.read_text())
    assert cause["reason"] == "InvalidConfiguration"
    assert says in cause["message"]


def test_a_signal_ends_it_and_leaves_no_half_a_bundle(log: Path, tmp_path: Path) -> None:
    request = tmp_path / "prepare.json"
    request.write_text(json.dumps({"name": "m", "uri": "random://x", "task": "wait"}))
    program = (
        "import sys; from deepseek_engine.prepare import api, container; "
        f"api._child_command = lambda s: [sys.executable, {str(tmp_path / 'child.py')!r}, str(s)]; "
        "sys.exit(container.main())"
    )
    models = tmp_path / "models"
    command = [sys.executable, "-c", program, str(request), str(models / "m")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until(lambda: [*models.glob(".m-*/half.data")], what="the child has begun")
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert [path.name for path in models.iterdir()] == ["m.lock"]
