"""The catalog of a command: the built-in entries and those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from deepseek_api.catalog import Catalog, builtin_catalog
from deepseek_api.errors import CatalogError, ErrorCode

from deepseek._files import read_file

CatalogOption = Annotated[
    Path | None,
    typer.Option("--catalog", help="YAML file with more catalog entries.", metavar="FILE"),
]


def read_catalog(path: Path | None) -> Catalog:
    """The built-in catalog with the entries of a file added or replaced.

    Raises:
        ConfigurationError: the file cannot be read.
        CatalogError: it is not a catalog.
    """
    catalog = builtin_catalog()
    if path is None:
        return catalog
    try:
        content: Any = yaml.safe_load(read_file(path, what="catalog"))
    except yaml.YAMLError as error:
        raise _not_a_catalog(path, f"it is not valid YAML ({error})") from error
    entries = content.get("models") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise _not_a_catalog(path, "it has no mapping 'models'")
    return catalog.merged(entries, origin=f"the catalog file '{path}'")


def _not_a_catalog(path: Path, why: str) -> CatalogError:
    return CatalogError(
        f"'{path}' is not a catalog: {why}.",
        hint="Write 'models:' and below it the entries by name.",
        code=ErrorCode.INVALID_ARGUMENT,
        reason="InvalidCatalog",
    )
