"""The catalog that this installation serves: the built-in entries and those of its own file.

Why it exists: an installation adds models, or only says where its copy of a known model lies. An
entry of a known name may therefore name some fields only; the others stay as they are built in.
The file is read again when it changes, without a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml
from deepseek_api.catalog import Catalog, builtin_catalog
from deepseek_api.errors import CatalogError

__all__ = ["CatalogFile", "overlaid"]

_log = logging.getLogger(__name__)
_ORIGIN: Final = "the operator's catalog file"


def overlaid(base: Catalog, entries: Mapping[str, object], *, origin: str = _ORIGIN) -> Catalog:
    """The base with these entries laid over it, field by field.

    Args:
        base: entries to start from.
        entries: name to fields, in wire form. A field replaces the whole field of a known entry.
        origin: what to call the place of the entries in errors.

    Raises:
        CatalogError: an entry is wrong, or a new one lacks fields.
    """
    merged: dict[str, object] = {}
    for name, fields in entries.items():
        known = base.find(str(name))
        if known is not None and isinstance(fields, Mapping):
            merged[str(name)] = {**known.to_wire(), **fields}
        else:
            merged[str(name)] = fields
    return base.merged(merged, origin=origin)


class CatalogFile:
    """The current catalog.

    Args:
        path: YAML file with ``models: {NAME: {...}}``; None: the built-in entries only. A file
            that does not exist adds nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._catalog = builtin_catalog()
        self.problem: CatalogError | None = None
        """What is wrong with the file; the entries of the last good one stay in force."""

    def current(self) -> Catalog:
        """The entries; reads the file if it changed."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._catalog = self._read()
                self.problem = None
            except CatalogError as error:
                self.problem = error
                _log.error("the catalog file is not usable: %s", error)
        return self._catalog

    def _stamp(self) -> tuple[int, int, int] | None:
        # A mounted ConfigMap changes by a link to another folder: the inode tells, too.
        try:
            stat = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return None if stat is None else (stat.st_mtime_ns, stat.st_ino, stat.st_size)

    def _read(self) -> Catalog:
        if self._path is None or not self._path.exists():
            return builtin_catalog()
        try:
            data = yaml.safe_load(self._path.read_text("utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise CatalogError(
                f"The catalog file {self._path} cannot be read: {error}.",
                hint="Write it as YAML with 'models:' on top.",
            ) from error
        entries = data.get("models", {}) if isinstance(data, Mapping) else None
        if not isinstance(entries, Mapping):
            raise CatalogError(
                f"The catalog file {self._path} has no mapping under 'models'.",
                hint="Write 'models:' and below it one entry per name.",
            )
        return overlaid(builtin_catalog(), entries)
