"""The program that builds images on this machine: docker, podman or buildah.

Why it exists: the three take nearly the same arguments, and the differences (isolation, what a
build step sees of the host) belong in one place.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Builder", "ImageToolError", "find_builder"]

_SECRETS = {"certificates": "/etc/ssl/certs/ca-certificates.crt", "pip": "/etc/pip.conf"}
"""What the step that installs packages sees of this machine, and what no image ever holds."""

_PULL_S = 120.0


class ImageToolError(Exception):
    """A sentence for the person who builds images."""


@dataclass(frozen=True, slots=True)
class Builder:
    """One of the three programs."""

    program: str
    """``docker``, ``podman`` or ``buildah``."""

    def build(
        self, *, file: Path, tag: str, arguments: dict[str, str], labels: dict[str, str]
    ) -> None:
        """Build an image from the repository's root, which is the working folder."""
        command = [self.program, "bud" if self.program == "buildah" else "build", "--network=host"]
        if self.program == "buildah":
            command += ["--isolation=chroot", "--layers"]
        for name, path in _SECRETS.items():
            command += ["--secret", f"id={name},src={path}"] if Path(path).exists() else []
        for name, value in arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        for name, value in labels.items():
            command += ["--label", f"{name}={value}"]
        run([*command, "-f", str(file), "-t", tag, "."])

    def label(self, tag: str, name: str) -> str | None:
        """A label of a local image, or None when there is no such image or label."""
        image = self._inspect(tag)
        # buildah's "Config" is a string; docker and podman have no "OCIv1".
        config = image.get("OCIv1", {}).get("config") or image.get("Config") or {}
        labels = config.get("Labels") or {} if isinstance(config, dict) else {}
        return str(labels[name]) if name in labels else None

    def image_id(self, tag: str) -> str:
        """What identifies the content of a local image; empty when there is no such image."""
        image = self._inspect(tag)
        return str(image.get("FromImageID") or image.get("Id") or "")

    def pull(self, reference: str) -> bool:
        """Fetch an image, if a registry answers."""
        command = [self.program, "pull", "--quiet", reference]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=_PULL_S)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _inspect(self, tag: str) -> dict[str, Any]:
        command = [self.program, "inspect", "--type", "image", tag]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return {}
        found = json.loads(done.stdout)
        return dict(found[0] if isinstance(found, list) else found)

    def save(self, tag: str, archive: Path) -> None:
        """Write an image as an archive that container runtimes import."""
        partial = archive.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        if self.program == "buildah":
            run([self.program, "push", "--quiet", tag, f"oci-archive:{partial}:{tag}"])
        elif self.program == "podman":
            run(["podman", "save", "--quiet", "--format=oci-archive", "-o", str(partial), tag])
        else:
            run(["docker", "save", "-o", str(partial), tag])
        partial.replace(archive)

    def push(self, tag: str, reference: str) -> None:
        """Send a local image to a registry."""
        if self.program == "buildah":
            run([self.program, "push", tag, f"docker://{reference}"])
            return
        run([self.program, "tag", tag, reference])
        run([self.program, "push", reference])


def run(command: Sequence[str]) -> None:
    """Run a command; its output is shown.

    Raises:
        ImageToolError: it failed.
    """
    if subprocess.run(command, check=False).returncode != 0:
        raise ImageToolError(f"This command failed: {' '.join(command)}")


def find_builder() -> Builder:
    """The first program that works here.

    Raises:
        ImageToolError: there is none.
    """
    # A docker client without a daemon is common; only its server's answer counts.
    if shutil.which("docker"):
        probe = ["docker", "version", "--format", "{{.Server.Version}}"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return Builder("docker")
    for program in ("podman", "buildah"):
        if shutil.which(program):
            return Builder(program)
    raise ImageToolError(
        "No program that builds images works here. Start the Docker daemon, or install podman or "
        "buildah (Debian: apt-get install buildah)."
    )
