"""The ModelPipeline API: types, allocation, catalog, bundle manifests and errors, all pure.

Why it exists: the operator, the engine, the worker and the command line share these definitions.
Everything that users of the package need is in the list below; other names may change.

Names are loaded when they are first used: a worker that needs only the errors does not pay for
the validation library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepseek_api.allocation import Allocation, AllocationRow, LimitedBy, allocate
    from deepseek_api.catalog import Catalog, CatalogEntry, builtin_catalog
    from deepseek_api.errors import DeepseekError, ErrorCode, InvalidPipelineError, Problem
    from deepseek_api.loading import LoadedPipeline, load_pipeline_file, load_pipelines
    from deepseek_api.manifest import Manifest, Variant, bundle_digest, parse_manifest
    from deepseek_api.v1alpha1 import Model, ModelPipeline

__all__ = [
    "Allocation",
    "AllocationRow",
    "Catalog",
    "CatalogEntry",
    "DeepseekError",
    "ErrorCode",
    "InvalidPipelineError",
    "LimitedBy",
    "LoadedPipeline",
    "Manifest",
    "Model",
    "ModelPipeline",
    "Problem",
    "Variant",
    "allocate",
    "builtin_catalog",
    "bundle_digest",
    "load_pipeline_file",
    "load_pipelines",
    "parse_manifest",
]

_HOMES = {
    "allocation": ("Allocation", "AllocationRow", "LimitedBy", "allocate"),
    "catalog": ("Catalog", "CatalogEntry", "builtin_catalog"),
    "errors": ("DeepseekError", "ErrorCode", "InvalidPipelineError", "Problem"),
    "loading": ("LoadedPipeline", "load_pipeline_file", "load_pipelines"),
    "manifest": ("Manifest", "Variant", "bundle_digest", "parse_manifest"),
    "v1alpha1": ("Model", "ModelPipeline"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
