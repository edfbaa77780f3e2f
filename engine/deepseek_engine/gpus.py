"""Which GPUs are there, found without loading a GPU library.

Why it exists: a diagnosis must work where torch is not installed and must not start a driver
context. The kernel driver's own files say what is built in; its command line tool adds memory. It
is for people who ask; choosing a device for a model is the back end's business.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Gpu", "GpuReport", "detect_gpus"]

_TIMEOUT_S = 5.0
_QUERY = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU."""

    name: str
    memory_bytes: int | None = None
    """None when the driver's tool did not tell."""
    driver: str | None = None
    """Version of the driver."""


@dataclass(frozen=True, kw_only=True)
class GpuReport:
    """The GPUs of this machine, or why there is none."""

    gpus: tuple[Gpu, ...]
    reason: str
    """A sentence that says where this is known from, or why nothing was found."""


def detect_gpus(*, root: Path = Path("/"), tool: str = "nvidia-smi") -> GpuReport:
    """Look for NVIDIA GPUs.

    Args:
        root: where ``/proc`` is.
        tool: name of the driver's command line tool.
    """
    driver = root / "proc/driver/nvidia"
    path = shutil.which(tool)
    gpus = _ask(path) if path else ()
    if gpus:
        return GpuReport(gpus=gpus, reason=f"'{tool}' lists {len(gpus)}.")
    names = [_model(file) for file in sorted((driver / "gpus").glob("*/information"))]
    if names:
        return GpuReport(
            gpus=tuple(Gpu(name=name) for name in names),
            reason=f"The kernel driver lists {len(names)}; '{tool}' did not answer.",
        )
    if driver.is_dir():
        return GpuReport(gpus=(), reason="The NVIDIA driver is loaded and sees no GPU.")
    if path:
        return GpuReport(gpus=(), reason=f"'{tool}' is installed and finds no GPU.")
    return GpuReport(gpus=(), reason="No NVIDIA driver is loaded.")


def _ask(tool: str) -> tuple[Gpu, ...]:
    try:
        done = subprocess.run(
            [tool, *_QUERY], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    gpus = []
    for line in done.stdout.splitlines():
        name, memory, driver = (*(part.strip() for part in line.split(",")), "", "", "")[:3]
        if name:
            size = int(memory) * 1024 * 1024 if memory.isdigit() else None
            gpus.append(Gpu(name=name, memory_bytes=size, driver=driver or None))
    return tuple(gpus)


def _model(file: Path) -> str:
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Model":
            return value.strip()
    return "NVIDIA GPU"
