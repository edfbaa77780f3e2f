"""Cut a pod off from the API server of the one-node cluster, as a broken network does.

Why it exists: a watch that ends because its server ends is seen by everybody, and the server comes
back with empty caches. Here only one client loses its connections and finds no new ones, while the
cluster goes on without it. Needs root, ``iptables`` and ``ss``. Not for kind, whose API server
lives in a container with a network of its own.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

from deepseek_api.errors import DeepseekError

from deploy.cluster import control
from deploy.cluster.layout import NETWORK, PORTS

__all__ = ["cut_off", "remains", "server_is_a_process"]

_MARK: Final = "deepseek-test-cut"


def server_is_a_process() -> bool:
    """Whether the API server is a process of this machine, which can be ended and cut off."""
    try:
        control.component_names()
    except DeepseekError:
        return False
    return True


@contextlib.contextmanager
def cut_off(
    pod_ip: str, *, server_ip: str = NETWORK.node_ip, port: int = PORTS["kube-apiserver"]
) -> Iterator[int]:
    """Inside the block the pod's connections are reset and new ones refused.

    Gives the number of connections that were reset.

    Raises:
        AssertionError: there was none, so nothing would have been cut.
    """
    rule = _rule(pod_ip, server_ip, port)
    # First no new ones, otherwise the pod is back before the block begins.
    _run(("iptables", "-w", "-I", *rule))
    try:
        which = ("state", "established", "src", f"{server_ip}:{port}", "dst", pod_ip)
        closed = _run(("ss", "--kill", "--tcp", "--no-header", "--numeric", *which)).splitlines()
        assert closed, f"{pod_ip} has no connection to {server_ip}:{port}"
        yield len(closed)
    finally:
        _run(("iptables", "-w", "-D", *rule))


def remains() -> list[str]:
    """Rules of `cut_off` that are there now; outside of its blocks there must be none."""
    return [line for line in _run(("iptables", "-w", "-S", "INPUT")).splitlines() if _MARK in line]


def _rule(pod_ip: str, server_ip: str, port: int) -> tuple[str, ...]:
    where = ("INPUT", "--protocol", "tcp", "--source", pod_ip, "--destination", server_ip)
    mark = ("--match", "comment", "--comment", _MARK)
    return (*where, "--dport", str(port), *mark, "--jump", "REJECT", "--reject-with", "tcp-reset")


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
