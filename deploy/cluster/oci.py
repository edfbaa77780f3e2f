"""Write a container image as an OCI archive, from files, with the standard library.

Why it exists: the cluster needs an image for pod sandboxes before any image builder is at hand.
The same files give the same bytes: no time and no user of this machine goes in. Not for images with
more than one layer.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["File", "machine_architecture", "write_image"]

_IMAGE = "application/vnd.oci.image"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class File:
    """One file of the image."""

    content: bytes
    """What it holds."""
    mode: int = 0o644
    """Its permissions."""


def machine_architecture() -> str:
    """This machine's architecture as images name it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def write_image(
    target: Path,
    *,
    reference: str,
    files: Mapping[str, File],
    entrypoint: Sequence[str] = (),
    user: str = "65535:65535",
) -> str:
    """Write an archive with one image of one layer.

    Args:
        target: the archive to write.
        reference: the full name that the image gets when it is imported.
        files: files by path in the image, without a leading slash.
        entrypoint: what a container runs.
        user: who runs it, ``uid:gid``.

    Returns:
        The digest of the image's manifest.
    """
    plain = _tar(files)
    layer = gzip.compress(plain, mtime=0)
    config = {
        "architecture": machine_architecture(),
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "User": user},
        "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
    }
    config_blob = _json(config)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_IMAGE}.manifest.v1+json",
            "config": _descriptor(f"{_IMAGE}.config.v1+json", config_blob),
            "layers": [_descriptor(f"{_IMAGE}.layer.v1.tar+gzip", layer)],
        }
    )
    listed = _descriptor(f"{_IMAGE}.manifest.v1+json", manifest)
    listed["annotations"] = {
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference,
    }
    entries = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (layer, config_blob, manifest)}
    entries["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    entries["index.json"] = _json({"schemaVersion": 2, "manifests": [listed]})
    target.write_bytes(_tar({name: File(blob) for name, blob in entries.items()}))
    return _digest(manifest)


def _tar(files: Mapping[str, File]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for folder in sorted({str(up) for name in files for up in Path(name).parents} - {"."}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, file in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(file.content), file.mode
            archive.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
