"""GGUF files as folders of the cache, made once for each content.

Why it exists: everything after the sources reads what the hub's folders hold. The cache is keyed by
the hash of the whole file, so that the same file from a package, a folder or the hub is imported
once, and a changed one again.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deepseek_api.errors import SourceError
from deepseek_api.vocabulary import Precision

from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.folders import (
    imports_folder,
    locked,
    remove_remains,
    staging_prefix,
    writable,
)
from deepseek_engine.prepare.sources.parts import Parts

__all__ = ["imported"]

COMPLETE = "model.safetensors"
_CHUNK = 1 << 24


def imported(
    weights: Path | Parts, precisions: Sequence[str], report: Reporter
) -> tuple[Path, str]:
    """The folder of a GGUF file and the hash of the file.

    Args:
        weights: the file, or its parts.
        precisions: what will be made of it: for bf16 alone bf16 is exact enough, and half as large.
        report: is told how far it is.

    Raises:
        SourceError: the file cannot be read or imported, or the cache cannot be written.
    """
    # Needs the package gguf, which only this source does.
    import torch

    from deepseek_engine.prepare.gguf.importing import IMPORT_VERSION, import_gguf

    sha256 = weights.sha256 if isinstance(weights, Parts) else _hash(weights, report)
    only_bf16 = set(precisions) == {Precision.BF16}
    kind = "bf16" if only_bf16 else "fp32"
    folder = imports_folder() / f"{sha256}-{kind}-{IMPORT_VERSION}"
    with locked(folder):
        if (folder / COMPLETE).is_file():
            return folder, sha256
        remove_remains(folder)
        with (
            writable(folder.parent),
            tempfile.TemporaryDirectory(
                prefix=staging_prefix(folder), dir=folder.parent, ignore_cleanup_errors=True
            ) as staging,
        ):
            file, made = _one_file(weights, Path(staging), report), Path(staging, "made")
            made.mkdir()
            import_gguf(
                file,
                made,
                dequantized=torch.bfloat16 if only_bf16 else torch.float32,
                on_progress=lambda done, total: report.progress("importing GGUF", done, total, "B"),
            )
            made.rename(folder)
    return folder, sha256


def _one_file(weights: Path | Parts, staging: Path, report: Reporter) -> Path:
    if isinstance(weights, Path):
        return weights
    target = staging / weights.name
    weights.write(target, report)
    return target


def _hash(path: Path, report: Reporter) -> str:
    digest, done = hashlib.sha256(), 0
    try:
        total = path.stat().st_size
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                report.progress("reading weights", done, total, "B")
    except OSError as error:
        raise SourceError(
            f"'{path.name}' cannot be read: {error.strerror}.",
            hint="Check who may read it, and the disk that it is on.",
            reason="SourceUnreadable",
        ) from error
    return digest.hexdigest()
