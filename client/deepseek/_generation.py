"""What a pipeline says of a model that generates, as the engine takes it.

Why it exists: the engine has names and defaults of its own, and adapters are folders there. Like
`_resolve` it only decides and looks at folders; it loads nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from deepseek_api.errors import ErrorCode, SourceError
from deepseek_api.v1alpha1 import Adapter, Model
from deepseek_engine.generation.settings import AdapterConfig, GenerationSettings
from deepseek_engine.parallelism import ParallelismConfig
from deepseek_engine.prepare.identity import local_path

__all__ = ["ADAPTER_FILES", "adapters_of", "parallelism_of", "settings_of"]

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What the folder of an adapter holds."""


def settings_of(model: Model) -> GenerationSettings:
    """Settings of a model; those that it does not name have the engine's defaults.

    Raises:
        ConfigurationError: they do not fit together.
    """
    given: dict[str, Any] = model.generation.settings() if model.generation else {}
    if model.batching is not None and model.batching.max_queue_size is not None:
        given["max_queue"] = model.batching.max_queue_size
    return msgspec.convert(given, GenerationSettings)


def parallelism_of(model: Model) -> ParallelismConfig:
    """How a model is divided."""
    given = model.parallelism
    if given is None:
        return ParallelismConfig()
    return ParallelismConfig(tensor=given.tensor, pipeline=given.pipeline)


def adapters_of(model: Model) -> tuple[AdapterConfig, ...]:
    """The adapters of a model on this machine.

    Raises:
        SourceError: one lies in a cluster, or its folder is not there or not complete.
    """
    return tuple(
        AdapterConfig(name=adapter.name, path=os.fspath(_folder(model, adapter)))
        for adapter in model.adapters or ()
    )


def _folder(model: Model, adapter: Adapter) -> Path:
    uri = adapter.source.uri
    what = f"The adapter '{adapter.name}' of the model '{model.name}'"
    if not uri.startswith("file:///"):
        raise SourceError(
            f"{what} comes from '{uri}', which cannot be used on one machine.",
            hint="Name its folder: file:///PATH.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="UnsupportedSource",
        )
    folder = local_path(uri)
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        raise SourceError(
            f"{what} is not complete: '{folder}' has no {' and no '.join(missing)}.",
            hint="Save it with peft: model.save_pretrained(FOLDER).",
            code=ErrorCode.NOT_FOUND,
            reason="AdapterNotFound",
        )
    return folder
