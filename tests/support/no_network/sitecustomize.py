"""Refuses connections that leave this machine, in tests and in the Python processes they start.

Why it exists: "no test needs a network" is only true as long as one that tries fails loudly. Python
imports a module of this name when it starts; ``tests/conftest.py`` puts this folder on the path of
child processes and imports the module for its own. Connections to loopback addresses and unix
sockets are let through, and so is everything while `VARIABLE` is not set (tests/e2e).

It sees what goes through Python's sockets. gRPC and uvloop open their own; tests name loopback
addresses to both.
"""

from __future__ import annotations

import os
import sys
from typing import Any

VARIABLE = "DEEPSEEK_TESTS_NO_NETWORK"
"""Environment variable that switches the guard on."""
_LOOPBACK = ("localhost", "::1", "::", "0.0.0.0", "")


class NetworkRefused(RuntimeError):
    """Not an OSError: code that copes with a missing network must not swallow it."""


def _stays_here(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str):
        return True  # None is this machine; numbers belong to sockets that are no network's
    return host in _LOOPBACK or host.startswith(("127.", "::ffff:127."))


def _is_number(host: object) -> bool:
    return isinstance(host, str) and (":" in host or host.replace(".", "").isdigit())


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
        leaves = not _stays_here(host) and not _is_number(host)
    elif event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) and address else None
        leaves = not _stays_here(host)
    else:
        return
    if leaves and os.environ.get(VARIABLE):
        raise NetworkRefused(
            f"{event} of {host!r}: tests outside tests/e2e reach this machine only. Start what is "
            "needed on 127.0.0.1."
        )


if os.environ.get(VARIABLE):
    sys.addaudithook(_refuse)
