"""Packs a prepared bundle as a container image, so that a cluster can mount it as a volume.

Why it exists: a cluster's nodes fetch, check and cache images already, which makes an image the
simplest way to bring a bundle to workers that have no access to the network. The image holds
nothing but the bundle's files, at its root, and depends on nothing else: neither the time nor the
permissions that the files have here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from deepseek_api.errors import ConfigurationError, DeepseekError, ErrorCode

__all__ = ["BundleImage", "check_reference", "find_program", "pack", "push"]

_REFERENCE: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][\w.-]{0,127})?"
)
_CONTAINERFILE: Final = """FROM scratch
LABEL org.opencontainers.image.title="{title}" ai.deepseek.bundle.digest="{digest}"
ADD bundle.tar /
"""
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BundleImage:
    """An image in the store of the program that made it."""

    reference: str
    """Its name, ``REGISTRY/NAME:TAG``."""
    digest: str
    """Digest of the bundle's manifest, for ``source.digest``."""
    program: str
    """The program that holds it: ``docker``, ``podman`` or ``buildah``."""
    image_id: str = ""
    """Digest of the image's configuration, ``sha256:...``; the same bundle gives the same."""
    size_bytes: int = 0
    """Size of the files in it, not compressed."""
    registry_digest: str = ""
    """Digest that the registry has it under, ``sha256:...``; empty until it was pushed."""

    def source(self) -> dict[str, str]:
        """The ``source`` of a model that uses the image; pinned when a registry has it."""
        pin = f"@{self.registry_digest}" if self.registry_digest else ""
        return {"uri": f"oci://{self.reference}{pin}", "digest": self.digest}


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

    Raises:
        DeepseekError: the program failed, or there is no room for a copy of the bundle; the hint
            is the last line that the program said.
    """
    with tempfile.TemporaryDirectory(prefix="deepseek-image-") as folder:
        file, archive = Path(folder) / "Containerfile", Path(folder) / "bundle.tar"
        file.write_text(_CONTAINERFILE.format(title=f"deepseek bundle {name}", digest=digest))
        try:
            size = _write_archive(bundle, archive)
        except OSError as error:
            raise DeepseekError(
                f"The bundle cannot be copied to {folder}: {error.strerror}.",
                hint="Make room there, or name another folder in TMPDIR.",
                code=ErrorCode.FAILED_PRECONDITION,
                reason="ImageProgramFailed",
            ) from error
        said = _run([*_build_command(program), "-f", str(file), "-t", reference, folder])
    return BundleImage(
        reference=reference,
        digest=digest,
        program=program,
        image_id=f"sha256:{said.strip().removeprefix('sha256:')}",
        size_bytes=size,
    )


def push(image: BundleImage) -> BundleImage:
    """Send an image to its registry; returns it with the digest that it has there.

    Raises:
        DeepseekError: the program failed, for example because it is not logged in.
    """
    if image.program == "docker":
        found = _DIGEST.findall(_run(["docker", "push", image.reference]))
        return replace(image, registry_digest=found[-1] if found else "")
    with tempfile.TemporaryDirectory(prefix="deepseek-image-") as folder:
        file = Path(folder) / "digest"
        _run([image.program, "push", "--digestfile", str(file), image.reference])
        return replace(image, registry_digest=file.read_text().strip())


def _build_command(program: str) -> list[str]:
    """The command that builds with times fixed and prints nothing but the image's id."""
    if program == "docker":
        return ["docker", "build", "-q", "--build-arg", "SOURCE_DATE_EPOCH=0"]
    return [program, "bud" if program == "buildah" else "build", "-q", "--timestamp", "0"]


def _write_archive(bundle: Path, archive: Path) -> int:
    """Write the bundle's files as anyone may read them, in one order and without times.

    A bundle may be written by one user with tight permissions and is read by another one: the
    worker's. Returns the bytes of the files.
    """
    size = 0
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT, dereference=True) as packed:
        for path in sorted(bundle.rglob("*")):
            entry = packed.gettarinfo(path, arcname=str(path.relative_to(bundle)))
            entry.mode = 0o755 if entry.isdir() else 0o644
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = 0
            if entry.isdir():
                packed.addfile(entry)
                continue
            with path.open("rb") as content:
                packed.addfile(entry, content)
            size += entry.size
    return size


def _succeeds(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _run(command: Sequence[str]) -> str:
    """Run a command; returns what it printed."""
    environment = os.environ | {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}  # they hold the time
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise DeepseekError(
            f"'{command[0]} {command[1]}' failed with status {done.returncode}.",
            hint=said[-1] if said else None,
            code=ErrorCode.FAILED_PRECONDITION,
            reason="ImageProgramFailed",
        )
    return done.stdout
