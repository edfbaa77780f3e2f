"""Tests cannot reach another machine, and neither can the processes that they start."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ELSEWHERE = "192.0.2.1"
"""An address that belongs to nobody, for documentation."""


@pytest.mark.parametrize("host", [ELSEWHERE, "elsewhere.invalid"], ids=["address", "name"])
def test_a_connection_to_another_machine_is_refused(host: str) -> None:
    with pytest.raises(
        RuntimeError, match=r"reach this machine only\. Start what is needed on 127"
    ):
        socket.create_connection((host, 9), timeout=5)


def test_a_datagram_to_another_machine_is_refused() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        pytest.raises(RuntimeError, match=ELSEWHERE),
    ):
        sender.sendto(b"x", (ELSEWHERE, 9))


def test_libraries_are_refused_too_and_do_not_take_it_for_a_missing_network() -> None:
    with pytest.raises(RuntimeError, match=ELSEWHERE):
        urllib.request.urlopen(f"http://{ELSEWHERE}/", timeout=5)


def test_a_child_process_is_refused() -> None:
    script = f"import socket; socket.create_connection(({ELSEWHERE!r}, 9), timeout=5)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"NetworkRefused: socket.connect of '{ELSEWHERE}'" in done.stderr


def test_loopback_and_unix_sockets_work(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)
