"""Runs the gateway ``smg`` so that it never outlives the process that started it.

Usage: ``python -m deepseek._gateway_child ARGUMENTS``; the arguments are those of ``smg``.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the system to end this process with its parent, then become the gateway."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(1)  # It ended between the two calls.
    importlib.import_module("smg.cli").main(sys.argv[1:])


if __name__ == "__main__":
    main()
