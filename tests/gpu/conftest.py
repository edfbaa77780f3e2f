"""Tests of this folder need an NVIDIA GPU; elsewhere they are skipped and say so.

``make test-gpu`` runs them on a machine with torch, Triton and pytest; the tests of kernels need
nothing else of the project installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
for folder in ("kernels", "engine", "crds"):
    if str(ROOT / folder) not in sys.path:
        sys.path.append(str(ROOT / folder))


def _reason() -> str:
    # Asked of the driver's files first: importing torch takes seconds on machines without a GPU.
    if not (Path("/proc/driver/nvidia").is_dir() or Path("/dev/nvidia0").exists()):
        return "no NVIDIA driver on this machine"
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return "" if torch.cuda.is_available() else "no CUDA device on this machine"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if Path(item.fspath).parent.name == "gpu"]
    reason = _reason() if own else ""
    for item in own:
        item.add_marker(pytest.mark.gpu)
        item.add_marker(pytest.mark.timeout(300))
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
