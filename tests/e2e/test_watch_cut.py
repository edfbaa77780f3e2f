"""The tool that cuts watches really cuts them, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.cluster import eventually
from tests.support.watch_cut import cut_off, remains

HERE, THERE = "203.0.113.1", "203.0.113.2"
SPACE, LINK = "deepseek-test-cut", "dstestcut0"
CLIENT = f"""
import socket, sys
with socket.create_connection(("{HERE}", int(sys.argv[1])), timeout=5) as found:
    print("connected", flush=True)
    found.settimeout(20)
    try:
        print(found.recv(1) and "answered", flush=True)
    except ConnectionResetError:
        print("reset", flush=True)
"""
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("iptables", "ss", "ip"))),
    reason="needs root, iptables and iproute2",
)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@pytest.fixture
def network() -> Iterator[None]:
    """A network namespace with a cable to this machine, as a pod has it."""
    for left in (("link", "del", LINK), ("netns", "del", SPACE)):
        with contextlib.suppress(subprocess.CalledProcessError):
            ip(*left)
    ip("netns", "add", SPACE)
    try:
        ip("link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", SPACE)
        ip("address", "add", f"{HERE}/30", "dev", LINK)
        ip("link", "set", LINK, "up")
        ip("-n", SPACE, "address", "add", f"{THERE}/30", "dev", "eth0")
        ip("-n", SPACE, "link", "set", "eth0", "up")
        yield
    finally:
        # A namespace takes its end of the cable with it, but not at once.
        ip("link", "del", LINK)
        ip("netns", "del", SPACE)


@contextlib.contextmanager
def client(port: int) -> Iterator[subprocess.Popen[str]]:
    """A process in the namespace that connects and waits to be told something."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", SPACE, sys.executable, "-c", CLIENT, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdout.readline().strip() or process.stderr.read()


@pytest.mark.usefixtures("network")
def test_connections_are_reset_and_refused_until_the_block_ends() -> None:
    with socket.create_server((HERE, 0)) as server:
        port = server.getsockname()[1]
        with client(port) as watching:
            assert line(watching) == "connected"
            with cut_off(THERE, server_ip=HERE, port=port) as closed:
                assert closed == 1
                assert line(watching) == "reset"
                with client(port) as refused:
                    _, said = refused.communicate(timeout=20)
                    assert "ConnectionRefusedError" in said
            assert remains() == []
        with client(port) as again:
            assert eventually(lambda: line(again), timeout_s=10) == "connected"


@pytest.mark.usefixtures("network")
def test_a_client_without_a_connection_is_told_not_passed_over() -> None:
    with socket.create_server((HERE, 0)) as server:
        port = server.getsockname()[1]
        with (
            pytest.raises(AssertionError, match="has no connection"),
            cut_off(THERE, server_ip=HERE, port=port),
        ):
            pass
    assert remains() == []
