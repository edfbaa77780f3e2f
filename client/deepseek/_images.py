"""Packs a prepared bundle as a container image, so that a cluster can mount it as a volume.

Why it exists: a cluster's nodes fetch, check and cache images already, which makes an image the
simplest way to bring a bundle to workers that have no access to the network. The image holds
nothing but the bundle's files, at its root.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepseek_api.errors import ConfigurationError, DeepseekError, ErrorCode

__all__ = ["BundleImage", "check_reference", "find_program", "pack", "push"]

_REFERENCE: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][\w.-]{0,127})?"
)
_CONTAINERFILE: Final = """FROM scratch
LABEL org.opencontainers.image.title="{title}" ai.deepseek.bundle.digest="{digest}"
COPY . /
"""


@dataclass(frozen=True, slots=True)
class BundleImage:
    """An image in the store of the program that made it."""

    reference: str
    """Its name, ``REGISTRY/NAME:TAG``."""
    digest: str
    """Digest of the bundle's manifest, for ``source.digest``."""
    program: str
    """The program that holds it: ``docker``, ``podman`` or ``buildah``."""

    def source(self) -> dict[str, str]:
        """The ``source`` of a model that uses the image."""
        return {"uri": f"oci://{self.reference}", "digest": self.digest}


def check_reference(reference: str) -> str:
    """An image's name, if it is one.

    Raises:
        ConfigurationError: it is not.
    """
    if not _REFERENCE.fullmatch(reference):
        raise ConfigurationError(
            f"'{reference}' is not the name of an image.",
            hint="Write REGISTRY/NAME:TAG, for example registry.example/models/minilm:1.",
        )
    return reference


def find_program() -> str:
    """A program that builds images here.

    Raises:
        ConfigurationError: none of the known ones works.
    """
    # A docker client without a daemon is common; only the server's answer counts.
    if shutil.which("docker") and _succeeds(["docker", "version", "--format", "{{.Server.Os}}"]):
        return "docker"
    for program in ("podman", "buildah"):
        if shutil.which(program):
            return program
    raise ConfigurationError(
        "No program that builds images works here.",
        hint="Start the Docker daemon, or install podman or buildah.",
    )


def pack(bundle: Path, *, name: str, digest: str, reference: str, program: str) -> BundleImage:
    """Build the image of a bundle.

    With podman and buildah the same bundle gives the same image, byte for byte: timestamps are
    fixed. Docker's builder writes its own.

    Raises:
        DeepseekError: the program failed; the hint is its last line.
    """
    verb = "bud" if program == "buildah" else "build"
    fixed = [] if program == "docker" else ["--timestamp", "0"]
    with tempfile.TemporaryDirectory(prefix="deepseek-image-") as folder:
        file = Path(folder) / "Containerfile"
        file.write_text(_CONTAINERFILE.format(title=f"deepseek bundle {name}", digest=digest))
        _run([program, verb, *fixed, "-q", "-f", str(file), "-t", reference, str(bundle)])
    return BundleImage(reference=reference, digest=digest, program=program)


def push(image: BundleImage) -> None:
    """Send an image to its registry.

    Raises:
        DeepseekError: the program failed, for example because it is not logged in.
    """
    _run([image.program, "push", image.reference])


def _succeeds(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise DeepseekError(
            f"'{command[0]} {command[1]}' failed with status {done.returncode}.",
            hint=said[-1] if said else None,
            code=ErrorCode.FAILED_PRECONDITION,
            reason="ImageProgramFailed",
        )
