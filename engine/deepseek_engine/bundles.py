"""Opening a bundle: nothing of it is used before every byte is known to be right.

Why it exists: weights come from networks, volumes and disks that fail half-way. A bundle's digest
pins its manifest and the manifest pins every file, so a damaged or exchanged file is found here,
with its name, and not as a strange answer later. Messages name files inside the bundle and never
the folder that it lies in. Writing bundles is not this module's business.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deepseek_api.errors import BundleError
from deepseek_api.manifest import BundleFile, Manifest, Variant, bundle_digest, parse_manifest

__all__ = ["MANIFEST", "OpenBundle", "open_bundle"]

MANIFEST = "manifest.json"
"""Name of the manifest inside a bundle."""

_MAX_MANIFEST_BYTES = 32 * 1024 * 1024
_CHUNK = 1024 * 1024
_AGAIN = "Prepare or fetch the bundle again."


@dataclass(frozen=True, kw_only=True)
class OpenBundle:
    """A bundle whose manifest was read and checked."""

    folder: Path
    manifest: Manifest
    digest: str

    def path(self, name: str) -> Path:
        """The path of a file of the bundle."""
        return self.folder / name

    def shared_bytes(self, name: str) -> bytes:
        """The content of a small shared file, such as a tokenizer."""
        return self.path(name).read_bytes()

    def verify(self, variant: Variant, *, progress: Callable[[float], None] | None = None) -> None:
        """Check size and hash of every file that a variant needs.

        Args:
            variant: the variant that will be opened; files of other variants are not read.
            progress: called with the part of the bytes that is done, 0 to 1.

        Raises:
            BundleError: a file is missing, short, long, changed, not a plain file or a link.
        """
        files = {file.path: file for file in (*self.manifest.files, *variant.files)}
        total = sum(file.bytes for file in files.values()) or 1
        done = 0
        # Cheap checks of all files come first: a missing file should not cost reading the others.
        for file in files.values():
            _check_stat(self.folder, file)
        for file in files.values():
            digest = hashlib.sha256()
            with self.path(file.path).open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(min(1.0, done / total))
            if digest.hexdigest() != file.sha256:
                raise BundleError(
                    f"The bundle's file '{file.path}' has changed: its hash is not the manifest's.",
                    hint=_AGAIN,
                    reason="DigestMismatch",
                )


def open_bundle(folder: str | Path, expected_digest: str = "") -> OpenBundle:
    """Read and check a bundle's manifest.

    Args:
        folder: the bundle.
        expected_digest: ``sha256:...`` that the bundle must have; empty accepts any.

    Raises:
        BundleError: there is no bundle, its manifest is wrong, or its digest is another one.
    """
    root = Path(folder)
    path = root / MANIFEST
    try:
        mode = path.lstat()
    except OSError:
        raise BundleError(
            "There is no bundle at the configured place: it has no manifest.json.",
            hint="Make one with 'deepseek prepare', or correct the path.",
            reason="MissingBundle",
        ) from None
    if not stat.S_ISREG(mode.st_mode):
        raise BundleError(
            "The bundle's manifest.json is not a plain file.", hint=_AGAIN, reason="UnsafePath"
        )
    if mode.st_size > _MAX_MANIFEST_BYTES:
        raise BundleError(
            f"The bundle's manifest.json has {mode.st_size} bytes; at most {_MAX_MANIFEST_BYTES} "
            "are read.",
            hint=_AGAIN,
        )
    manifest = parse_manifest(path.read_bytes())
    digest = bundle_digest(manifest)
    if expected_digest and digest != expected_digest:
        raise BundleError(
            f"The bundle's digest is {digest}; {expected_digest} was asked for.",
            hint="Correct the digest in the pipeline, or fetch the bundle that it names.",
            reason="DigestMismatch",
        )
    return OpenBundle(folder=root, manifest=manifest, digest=digest)


def _check_stat(folder: Path, file: BundleFile) -> None:
    parts = PurePosixPath(file.path).parts
    if not parts or PurePosixPath(file.path).is_absolute() or ".." in parts:
        raise BundleError(
            f"The bundle's manifest names a file outside the bundle: '{file.path}'.",
            hint=_AGAIN,
            reason="UnsafePath",
        )
    path = folder
    for part in parts:
        # Each step is looked at: a link in the middle leaves the bundle as well as one at the end.
        path = path / part
        try:
            state = path.lstat()
        except OSError:
            raise BundleError(
                f"The bundle's file '{file.path}' is missing.", hint=_AGAIN, reason="MissingFile"
            ) from None
        if stat.S_ISLNK(state.st_mode):
            raise BundleError(
                f"The bundle's file '{file.path}' is a symbolic link or lies behind one.",
                hint="Copy the files themselves into the bundle.",
                reason="UnsafePath",
            )
    if not stat.S_ISREG(state.st_mode):
        raise BundleError(
            f"The bundle's file '{file.path}' is not a plain file.",
            hint=_AGAIN,
            reason="UnsafePath",
        )
    if state.st_size != file.bytes:
        truncated = state.st_size < file.bytes
        raise BundleError(
            f"The bundle's file '{file.path}' has {state.st_size} bytes; the manifest says "
            f"{file.bytes}.",
            hint=_AGAIN,
            reason="TruncatedFile" if truncated else "SizeMismatch",
        )
