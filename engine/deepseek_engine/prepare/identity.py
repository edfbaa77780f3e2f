"""What tells one state of a source from another, found cheaply and without opening the weights.

Only the bundle cache uses it, to notice that a package was upgraded or a file was replaced. It is
no proof of content: that is the digest which prepare computes over every byte.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit


def split_uri(uri: str) -> tuple[str, str]:
    """Scheme and the rest of a source URI: ``pip://name`` gives ``("pip", "name")``."""
    scheme, _, rest = uri.partition("://")
    return scheme, rest


def source_identity(uri: str) -> str:
    """A short text that changes when the source's content is likely to have changed."""
    scheme, rest = split_uri(uri)
    if scheme == "pip":
        return package_version(rest)
    if scheme == "file":
        return _newest_change(local_path(uri))
    return ""


def local_path(uri: str) -> Path:
    """The path of a ``file://`` URI, in which a space is written ``%20``."""
    return Path(unquote(urlsplit(uri).path))


def package_version(name: str) -> str:
    """Version of an installed package, or an empty text when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # ValueError: an empty name
        return ""


def _newest_change(path: Path) -> str:
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return repr(facts)
