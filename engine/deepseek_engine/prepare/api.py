"""The front of prepare: a cache of bundles, and a child process that makes what is missing.

Imports neither torch nor ONNX Runtime. A bundle appears in the cache in one step (a rename), so a
reader never sees half of one, and two callers that want the same bundle make it once (a file lock).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
from deepseek_api.errors import DeepseekError, ErrorCode, SourceError
from deepseek_api.manifest import bundle_digest, parse_manifest

from deepseek_engine.prepare.folders import (
    cache_base,
    locked,
    remove_remains,
    staging_prefix,
    writable,
)
from deepseek_engine.prepare.identity import source_identity
from deepseek_engine.prepare.messages import PrepareEvent, PrepareRequest

__all__ = [
    "PrepareEvent",
    "PrepareRequest",
    "PreparedBundle",
    "cache_folder",
    "prepare",
    "prepare_at",
]

RECIPE_VERSION = 7
"""Raised whenever the same source would yield a different bundle, so that caches are not reused."""

MANIFEST = "manifest.json"

OnEvent = Callable[[PrepareEvent], None]


@dataclass(frozen=True, slots=True)
class PreparedBundle:
    """A bundle on disk."""

    path: Path
    digest: str
    """Digest of its manifest."""
    cached: bool
    """Whether it was there before."""


def cache_folder() -> Path:
    """Folder of prepared bundles: ``$DEEPSEEK_CACHE/bundles`` or the user's cache folder."""
    return cache_base() / "bundles"


def prepare(
    request: PrepareRequest,
    *,
    output: Path | None = None,
    on_event: OnEvent = lambda event: None,
) -> PreparedBundle:
    """Return the bundle of a request, making it if it is not there.

    Args:
        request: what to prepare.
        output: the folder to write; ``None`` uses the cache. An existing folder is refused.
        on_event: told of every step.

    Raises:
        DeepseekError: the source cannot be had, is not trusted, or cannot be converted; the folder
            cannot be written; or the preparation was ended from outside.
    """
    if output is not None:
        return _prepare_into(request, output.resolve(), on_event)
    return prepare_at(request, cache_folder() / cache_key(request), on_event=on_event)


def prepare_at(
    request: PrepareRequest, folder: Path, *, on_event: OnEvent = lambda event: None
) -> PreparedBundle:
    """Return the bundle of a folder that holds nothing else, making it if it is not there.

    Args:
        request: what to prepare; a bundle that is there already is taken to be of this request.
        folder: the folder; what an earlier caller left unfinished is removed.
        on_event: told of every step.

    Raises:
        DeepseekError: as for :func:`prepare`.
    """
    if (folder / MANIFEST).is_file():
        return PreparedBundle(folder, _digest_of(folder), cached=True)
    with locked(folder):
        if (folder / MANIFEST).is_file():
            return PreparedBundle(folder, _digest_of(folder), cached=True)
        remove_remains(folder)
        return _prepare_into(request, folder, on_event)


def cache_key(request: PrepareRequest) -> str:
    """Folder name of a request: readable, and different whenever the bundle could differ."""
    fields = (RECIPE_VERSION, source_identity(request.uri), msgspec.to_builtins(request))
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", request.name).lstrip(".")
    return f"{readable}-{hashlib.sha256(msgspec.json.encode(fields)).hexdigest()[:16]}"


def _digest_of(folder: Path) -> str:
    return bundle_digest(parse_manifest((folder / MANIFEST).read_bytes()))


def _prepare_into(request: PrepareRequest, folder: Path, on_event: OnEvent) -> PreparedBundle:
    if folder.exists():
        raise _output_exists(folder)
    with writable(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the final rename stays on one file system.
        staging = Path(tempfile.mkdtemp(prefix=staging_prefix(folder), dir=folder.parent))
    try:
        digest = _run_child(request, staging, on_event)
        staging.chmod(0o755)
        _move(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return PreparedBundle(folder, digest, cached=False)


def _move(staging: Path, folder: Path) -> None:
    try:
        staging.rename(folder)
    except OSError as error:
        if folder.exists():  # somebody else was faster
            raise _output_exists(folder) from error
        raise


def _output_exists(folder: Path) -> SourceError:
    return SourceError(
        f"The output folder '{folder}' exists already.",
        hint="Name another folder, or remove this one first.",
        code=ErrorCode.FAILED_PRECONDITION,
        reason="OutputExists",
    )


def _run_child(request: PrepareRequest, staging: Path, on_event: OnEvent) -> str:
    """Run the heavy part in a process of its own; return the digest of the bundle."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            _child_command(staging), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as child,
    ):
        try:
            digest = _follow(child, request, on_event)
        except BaseException:
            # An interrupt must not leave a process behind that goes on burning both cores.
            child.send_signal(signal.SIGKILL)
            raise
        if digest is None:
            raise _explain_exit(child.wait(), errors)
        return digest


def _child_command(staging: Path) -> list[str]:
    return [sys.executable, "-m", "deepseek_engine.prepare", str(staging)]


def _follow(
    child: subprocess.Popen[bytes], request: PrepareRequest, on_event: OnEvent
) -> str | None:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        # One line; then the pipe stays open, because its end tells the child that we are gone.
        child.stdin.write(msgspec.json.encode(request) + b"\n")
        child.stdin.flush()
    except BrokenPipeError:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
    digest = None
    for line in child.stdout:
        if not line.endswith(b"\n"):
            break  # the child was killed in the middle of a word
        event = msgspec.json.decode(line, type=PrepareEvent)
        on_event(event)
        if event.kind == "error":
            raise DeepseekError(
                event.message, code=ErrorCode(event.code), reason=event.reason, hint=event.hint
            )
        if event.kind == "done":
            digest = event.digest
    return digest


def _explain_exit(status: int, errors: IO[bytes]) -> DeepseekError:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    tail = f" Its last line was: {lines[-1]}" if lines else ""
    if status == -signal.SIGKILL:
        return DeepseekError(
            "Preparing was killed, most likely because the machine ran out of memory.",
            hint="Free memory, or prepare the model on a larger machine and copy the bundle.",
            code=ErrorCode.RESOURCE_EXHAUSTED,
            reason="PrepareKilled",
        )
    return DeepseekError(
        f"Preparing ended unexpectedly with status {status}.{tail}",
        hint="Run 'deepseek doctor' to see whether this machine has what preparing needs.",
        code=ErrorCode.INTERNAL,
        reason="PrepareFailed",
    )
