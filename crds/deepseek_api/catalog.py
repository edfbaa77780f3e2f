"""The catalog: short model names and everything that must be known to prepare those models.

Why it exists: ``name: bert-base`` in a pipeline has to mean a source, a task and a kind of
processing. The built-in entries are data (``catalog.yaml``); users add or replace entries by a
file locally and by a ConfigMap in a cluster. This module looks names up; fetching and preparing
a model is the engine's business.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError

from deepseek_api.base import Int, WireModel
from deepseek_api.errors import CatalogError, ErrorCode
from deepseek_api.manifest import Digest, Signature
from deepseek_api.processing import Postprocessing, Preprocessing
from deepseek_api.suggest import did_you_mean
from deepseek_api.vocabulary import SOURCE_URI_PATTERN

__all__ = ["Catalog", "CatalogEntry", "CatalogSource", "builtin_catalog"]


class CatalogSource(WireModel):
    """Where the weights of an entry come from."""

    uri: Annotated[str, Field(pattern=SOURCE_URI_PATTERN, max_length=2048)]
    """The source URI, for example ``hf://google-bert/bert-base-uncased``."""
    revision: str | None = Field(default=None, min_length=1, max_length=256)
    """Commit, tag or package version; absent means the source's newest."""
    digest: Digest | None = None
    """Digest of the bundle, for sources that are bundles."""


class CatalogEntry(WireModel):
    """One model that can be asked for by name."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
    """The name; unlike a pipeline's model names it may contain ``_`` and ``.``."""
    description: str = Field(min_length=1, max_length=1000)
    """What it is, one sentence."""
    source: CatalogSource
    """Where the weights come from."""
    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    """What the model does, for example ``text-embedding``."""
    type: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,30}$")]
    """Model type for the priority rules, for example ``NLP``."""
    architecture: str = Field(min_length=1, max_length=200)
    """Architecture as ``LIBRARY/NAME``, for example ``timm/resnet50``."""
    signature: Signature | None = None
    """Tensors that the prepared model takes and gives, as far as they are known beforehand."""
    preprocessing: Preprocessing
    """What happens before the graph."""
    postprocessing: Postprocessing
    """What happens after the graph."""
    label_set: str | None = Field(default=None, min_length=1, max_length=100)
    """Name of the list of labels, for example ``imagenet-1k``."""
    memory_request: Annotated[
        str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$", max_length=32)
    ]
    """Memory to request for one replica, as a Kubernetes quantity."""
    license: str = Field(min_length=1, max_length=200)
    """License of the weights, as an SPDX identifier or in words."""
    terms: str | None = Field(default=None, min_length=1, max_length=1000)
    """What its license asks of those who use or pass on the weights, shown before they are
    prepared; absent: nothing that they must be told."""
    # Not "downloadMib", which the general rule would make of it: the unit is spelt MiB.
    download_mib: Int = Field(
        ge=0, validation_alias="downloadMiB", serialization_alias="downloadMiB"
    )
    """Size of the download, MiB; 0: nothing is downloaded."""
    availability: str | None = Field(default=None, min_length=1, max_length=1000)
    """Why the entry cannot run in this release and what to do, one or two sentences; absent: it
    can run."""


@dataclass(frozen=True)
class Catalog:
    """A set of entries, keyed by name."""

    entries: Mapping[str, CatalogEntry]
    """The entries; do not change them, use :meth:`merged`."""

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self.entries.values())

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.entries)

    def find(self, name: str) -> CatalogEntry | None:
        """The entry of this name, or None."""
        return self.entries.get(name)

    def get(self, name: str) -> CatalogEntry:
        """The entry of this name.

        Raises:
            CatalogError: there is none; the hint offers the nearest name.
        """
        entry = self.entries.get(name)
        if entry is None:
            known = f"The catalog has {', '.join(self.names())}."
            raise CatalogError(
                f"The catalog has no model '{name}'.",
                hint=did_you_mean(name, self.entries)
                or f"{known} For another model write its 'source.uri'.",
            )
        return entry

    def merged(self, entries: Mapping[str, object], *, origin: str = "the catalog") -> Self:
        """A catalog with these entries added; an entry of a known name replaces the whole entry.

        Args:
            entries: name to fields, as under ``models:`` of a catalog file.
            origin: what to call the place of the entries in errors.

        Raises:
            CatalogError: an entry is wrong.
        """
        merged = dict(self.entries)
        for name, fields in entries.items():
            merged[str(name)] = _parse_entry(str(name), fields, origin)
        return type(self)(MappingProxyType(merged))


def _parse_entry(name: str, fields: object, origin: str) -> CatalogEntry:
    if not isinstance(fields, Mapping):
        raise CatalogError(
            f"The entry '{name}' of {origin} is not a mapping of fields.",
            hint="Write its 'source', 'task', 'type' and the other fields below its name.",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="InvalidCatalogEntry",
        )
    try:
        return CatalogEntry.model_validate({**fields, "name": name}, by_alias=True, by_name=False)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        # A misspelt field shows up twice, and the second half ("missing") explains nothing.
        first = min(errors, key=lambda item: item["type"] != "extra_forbidden")
        where = ".".join(str(part) for part in first["loc"]) or "the entry itself"
        hint = None
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            known = [field.alias or key for key, field in CatalogEntry.model_fields.items()]
            hint = did_you_mean(str(first["loc"][0]), known)
        raise CatalogError(
            f"The entry '{name}' of {origin} is wrong at '{where}': {first['msg']}.",
            hint=hint or "Compare it with the catalog's own entries.",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="InvalidCatalogEntry",
        ) from error


@functools.cache
def builtin_catalog() -> Catalog:
    """The entries that come with this release."""
    text = importlib.resources.files("deepseek_api").joinpath("catalog.yaml").read_text("utf-8")
    return Catalog(MappingProxyType({})).merged(
        yaml.safe_load(text)["models"], origin="the built-in catalog"
    )
