"""The image that the others start from.

Why it exists: the official Python image is the default, but a machine without a container registry
has none. There a small Debian with Python is made from Debian's own packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.images.tools import Builder, ImageToolError, run

__all__ = ["DEFAULT_BASE", "LOCAL_BASE", "base_image"]

DEFAULT_BASE = "docker.io/library/python:3.12-slim"
"""What a Containerfile starts from unless it is told otherwise."""
LOCAL_BASE = "localhost/deepseek/base:bookworm"
"""The base made here; Debian 12, Python 3.11."""
_UNNEEDED = (
    "usr/share/doc/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/man/*",
    "var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*",
    # What debootstrap takes over from this machine: its name and its name servers.
    "etc/hostname", "etc/resolv.conf",
)  # fmt: skip


def base_image(builder: Builder) -> str:
    """The base to build on: ``$BASE``, the one made here, the official one, or a new one.

    Raises:
        ImageToolError: there is no base and none can be made.
    """
    if os.environ.get("BASE"):
        return os.environ["BASE"]
    if builder.program == "docker":
        return DEFAULT_BASE  # a daemon has its own ways to a registry
    if builder.image_id(LOCAL_BASE):
        return LOCAL_BASE
    if builder.image_id(DEFAULT_BASE) or builder.pull(DEFAULT_BASE):
        return DEFAULT_BASE
    _make(builder)
    return LOCAL_BASE


def _make(builder: Builder) -> None:
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise ImageToolError(
            f"The base image {DEFAULT_BASE} cannot be pulled, and making one needs root and "
            "debootstrap (Debian: apt-get install debootstrap). Or name a base in BASE=."
        )
    print(f"{DEFAULT_BASE} cannot be pulled: making {LOCAL_BASE} from Debian's packages.")
    with tempfile.TemporaryDirectory(prefix="deepseek-base-") as folder:
        root = Path(folder) / "root"
        log = Path(folder) / "log"
        command = ["debootstrap", "--variant=minbase", "--include=python3,ca-certificates"]
        with log.open("w") as output:
            done = subprocess.run(
                [*command, "bookworm", str(root)], check=False, stdout=output, stderr=output
            )
        if done.returncode != 0:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise ImageToolError(f"debootstrap failed:\n{tail}")
        for path in [path for pattern in _UNNEEDED for path in root.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        containerfile = Path(folder) / "Containerfile"
        containerfile.write_text("FROM scratch\nCOPY root /\n")
        verb = "bud" if builder.program == "buildah" else "build"
        run([builder.program, verb, "-q", "-f", str(containerfile), "-t", LOCAL_BASE, folder])
