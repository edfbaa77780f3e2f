"""Bring images into the one-node cluster: from archives, and from docker, podman or buildah.

Why it exists: the cluster pulls nothing that was built on this machine; what pods run has to be
imported. The image that holds a pod's namespaces is built here, too.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from deepseek_api.errors import ConfigurationError, DeepseekError

from deploy.cluster.binaries import binary, go_environment
from deploy.cluster.config import PAUSE_IMAGE
from deploy.cluster.layout import Layout, cache_dir
from deploy.cluster.oci import File, write_image

__all__ = ["export_command", "import_archive", "load", "load_all", "pause_archive"]

_SOURCE = Path(__file__).resolve().parent / "pause"


def pause_archive() -> Path:
    """The archive of the sandbox image; built when it is not in the cache.

    Raises:
        DeepseekError: Go cannot build it.
    """
    source = (_SOURCE / "main.go").read_bytes()
    target = cache_dir() / f"pause-{hashlib.sha256(source).hexdigest()[:12]}.tar"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        program = Path(scratch) / "pause"
        _run(
            ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(program), "."],
            cwd=_SOURCE,
            env=go_environment(),
        )
        archive = Path(scratch) / "pause.tar"
        files = {"pause": File(program.read_bytes(), 0o755)}
        write_image(archive, reference=PAUSE_IMAGE, files=files, entrypoint=["/pause"])
        archive.rename(target)
    return target


def import_archive(layout: Layout, archive: Path) -> list[str]:
    """Import an OCI or docker archive; return the names it has in the cluster.

    Raises:
        DeepseekError: it is no archive of images.
    """
    output = _run([*_ctr(layout), "images", "import", "--local", str(archive)])
    # One line an image: "unpacking NAME (DIGEST)...done", or "NAME<tab>saved".
    names = [line.split()[1] for line in output.splitlines() if line.startswith("unpacking ")]
    return names


def load(layout: Layout, source: str) -> list[str]:
    """Import an archive, or an image of docker, podman or buildah; return its names.

    Raises:
        ConfigurationError: no cluster runs, or there is neither such a file nor such an image.
    """
    if not layout.socket.exists():
        raise ConfigurationError("No cluster runs on this machine.", hint="Run 'make cluster'.")
    if Path(source).is_file():
        return import_archive(layout, Path(source))
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "image.tar"
        reasons = []
        for program in ("docker", "podman", "buildah"):
            if shutil.which(program) is None:
                continue
            command = export_command(program, source, archive)
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode == 0:
                return import_archive(layout, archive)
            reasons.append(f"{program} says: {(done.stderr.strip() or 'nothing').splitlines()[-1]}")
    raise ConfigurationError(
        f"'{source}' is neither a file nor an image of docker, podman or buildah.",
        hint="\n".join(["Build it first.", *reasons]),
        reason="ImageNotFound",
    )


def load_all(layout: Layout, sources: Sequence[str], *, say: Callable[[str], None]) -> None:
    """Import several; say the names under which pods can use them."""
    for source in sources:
        for name in load(layout, source):
            say(f"Loaded {name}")


def export_command(program: str, reference: str, archive: Path) -> list[str]:
    """The command that writes an image of a local store into an archive."""
    if program == "docker":
        return ["docker", "save", "--output", str(archive), reference]
    if program == "podman":
        return ["podman", "save", "--format", "oci-archive", "--output", str(archive), reference]
    return ["buildah", "push", reference, f"oci-archive:{archive}:{reference}"]


def _ctr(layout: Layout) -> list[str]:
    return [str(binary("ctr")), f"--address={layout.socket}", "--namespace=k8s.io"]


def _run(
    command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=env)
    if done.returncode != 0:
        raise DeepseekError(
            f"'{Path(command[0]).name} {' '.join(command[1:])}' failed: {_said(done.stderr)}",
            reason="CommandFailed",
        )
    return done.stdout


def _said(errors: str) -> str:
    """What a program complained about, without its warnings."""
    lines = [line for line in errors.strip().splitlines() if "level=warning" not in line]
    return "\n".join(lines[-5:])
