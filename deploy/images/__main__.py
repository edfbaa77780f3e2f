"""Builds, saves and pushes the project's images: ``python -m deploy.images build [NAME ...]``.

An image whose inputs have not changed is not built again. ``make images push REGISTRY=...`` sends
them to a registry; ``save`` writes archives that container runtimes import (``ctr images import``).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from deploy.images.base import base_image
from deploy.images.tools import Builder, ImageToolError, find_builder

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
INPUTS = {
    "operator": ["requirements/operator.txt", "crds/deepseek_api", "operator/deepseek_operator"],
    "worker-cpu": [
        "requirements/cpu.txt",
        "crds/deepseek_api",
        "protos/deepseek_protos",
        "engine/deepseek_engine",
        "worker/deepseek_worker",
    ],
    "worker-cuda": [
        "requirements/cuda.txt",
        "crds/deepseek_api",
        "protos/deepseek_protos",
        "kernels/deepseek_kernels",
        "engine/deepseek_engine",
        "worker/deepseek_worker",
    ],
}
"""What each image is made of, besides its Containerfile and the base."""
DEFAULT = ("operator", "worker-cpu")
"""Built when no name is given; the CUDA image takes 6 GB and is asked for by name."""
INPUTS_LABEL = "deepseek.ai/inputs"


def version() -> str:
    """Version of the project, which is the tag of its images."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def local_name(name: str) -> str:
    """Name of an image on this machine."""
    return f"localhost/deepseek/{name}:{version()}"


def pushed_name(name: str, registry: str) -> str:
    """Name of an image in a registry; the chart asks for the same below its ``registry``."""
    return f"{registry.rstrip('/')}/deepseek/{name}:{version()}"


def inputs_hash(name: str, base: str) -> str:
    """Hash of everything that an image is made of; ``base`` tells one base from another."""
    digest = hashlib.sha256(base.encode())
    paths = [ROOT / "LICENSE", HERE / f"{name}.Containerfile"]
    for entry in INPUTS[name]:
        path = ROOT / entry
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        paths += [file for file in found if file.is_file() and "__pycache__" not in file.parts]
    for file in paths:
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def build(builder: Builder, names: list[str]) -> None:
    """Build the images that are missing or out of date."""
    base = base_image(builder)
    identity = f"{base} {builder.image_id(base)}"
    for name in names:
        tag, inputs = local_name(name), inputs_hash(name, identity)
        if builder.label(tag, INPUTS_LABEL) == inputs:
            print(f"{tag} is up to date.", flush=True)
            continue
        started = time.monotonic()
        print(f"Building {tag} with {builder.program} on {base} ...", flush=True)
        builder.build(
            file=HERE / f"{name}.Containerfile",
            tag=tag,
            arguments={"BASE": base, "VERSION": version()},
            labels={INPUTS_LABEL: inputs, "org.opencontainers.image.version": version()},
        )
        print(f"Built {tag} in {time.monotonic() - started:.0f} s.", flush=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until nobody else builds: two that make a base would build everything twice."""
    folder = archive_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def archive_folder() -> Path:
    """Where archives go: ``images`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "deepseek" / "images"


def save(builder: Builder, names: list[str], folder: Path) -> None:
    """Write images as archives into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        archive = folder / f"{name}-{version()}.tar"
        builder.save(local_name(name), archive)
        print(f"{archive} ({archive.stat().st_size / 1e6:.0f} MB)", flush=True)


def push(builder: Builder, names: list[str]) -> None:
    """Send images to ``$REGISTRY``."""
    registry = os.environ.get("REGISTRY", "")
    if not registry:
        raise ImageToolError("Say where to: make images push REGISTRY=registry.example/team")
    for name in names:
        reference = pushed_name(name, registry)
        builder.push(local_name(name), reference)
        print(f"Pushed {reference}", flush=True)


def main() -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.images", description=__doc__)
    parser.add_argument("command", choices=("build", "save", "push"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(INPUTS)}")
    parser.add_argument("--folder", type=Path, default=archive_folder(), help="for save")
    options = parser.parse_args()
    names = options.names or list(DEFAULT)
    unknown = sorted(set(names) - set(INPUTS))
    try:
        if unknown:
            raise ImageToolError(f"There is no image {unknown[0]}: {', '.join(INPUTS)}.")
        os.chdir(ROOT)
        builder = find_builder()
        if options.command == "build":
            with alone():
                build(builder, names)
        elif options.command == "save":
            save(builder, names, options.folder)
        else:
            push(builder, names)
    except ImageToolError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
