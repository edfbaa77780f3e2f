"""Folders of the user's cache that appear complete or not at all.

Why it exists: bundles and imported checkpoints are made in a folder beside their own and renamed;
one lock for each lets two processes that want the same thing make it once, and lets the second
remove what a killed first one left. Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from deepseek_api.errors import SourceError

__all__ = [
    "cache_base",
    "imports_folder",
    "locked",
    "remove_remains",
    "staging_prefix",
    "writable",
]


def cache_base() -> Path:
    """Where everything that can be made again lies: ``$DEEPSEEK_CACHE`` or the user's cache."""
    return Path(os.environ.get("DEEPSEEK_CACHE") or platformdirs.user_cache_dir("deepseek"))


def imports_folder() -> Path:
    """Where checkpoints lie that files of other formats became."""
    return cache_base() / "imports"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that makes a folder.

    Raises:
        SourceError: its parent cannot be written.
    """
    path = folder.with_name(f"{folder.name}.lock")
    with contextlib.ExitStack() as stack:
        with writable(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(path.open("w"))
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Say what to do when a folder cannot be written.

    Raises:
        SourceError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"The folder '{folder}' cannot be written: {error.strerror}.",
            hint="Name a folder that you may write, or set DEEPSEEK_CACHE to one.",
            reason="FolderNotWritable",
        ) from error


def staging_prefix(folder: Path) -> str:
    """How the names begin under which a folder is made."""
    return f".{folder.name}-"


def remove_remains(folder: Path) -> None:
    """Remove what a caller that was killed left of a folder; only for a holder of its lock."""
    for remains in (folder, *folder.parent.glob(f"{staging_prefix(folder)}*")):
        shutil.rmtree(remains, ignore_errors=True)
