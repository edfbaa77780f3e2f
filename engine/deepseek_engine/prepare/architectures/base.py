"""From a source and a catalog entry to a torch module with everything that serving it needs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from deepseek_api.catalog import CatalogEntry
from deepseek_api.errors import ErrorCode, SourceError
from deepseek_api.manifest import Signature, TensorSpec
from deepseek_api.processing import Postprocessing, Preprocessing
from torch import nn

from deepseek_engine.prepare.known import (
    KNOWN_CONFIGS,
    TASKS,
    UNET3D,
    Family,
    family_of,
    library_of,
)
from deepseek_engine.prepare.messages import PrepareRequest
from deepseek_engine.prepare.sources import Source
from deepseek_engine.prepare.state_dicts import StateDict, read_state_dict

__all__ = [
    "Family",
    "LoadedModel",
    "Plan",
    "config_of",
    "load_model",
    "load_planned",
    "make_plan",
    "weights_of",
]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in fp32, ready to be exported, compared and described."""

    family: Family
    module: nn.Module
    """In eval mode. Encoders take ``input_ids, attention_mask`` and return token vectors; decoders
    take ``input_ids`` and return logits of the next token; vision models take pixels
    ``[N, 3, H, W]`` and return logits; volume models ``[N, C, D, H, W]`` to logits of voxels."""
    architecture: str
    """``LIBRARY/NAME`` as the torch back end understands it."""
    task: str
    model_type: str
    signature: Signature
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    shared_files: Mapping[str, bytes]
    """Files that every variant needs, by name: tokenizer, labels."""
    torch_class: str
    """What the torch back end builds: a class of transformers or a model name of timm."""
    torch_config: Mapping[str, Any]
    """What it builds that from."""
    random_weights: bool
    torch_library: str = "timm"
    """Where the torch back end finds the class: ``transformers``, ``timm`` or ``deepseek``."""
    torch_arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the class takes beside the configuration."""
    torch_outputs: tuple[TensorSpec, ...] = ()
    """What the class returns, where that is not the signature's outputs."""

    def torch_description(self) -> dict[str, Any]:
        """The torch variant's graph file, but for the name of its weights."""
        outputs = self.torch_outputs or self.signature.outputs
        arguments = {"arguments": dict(self.torch_arguments)} if self.torch_arguments else {}
        return {
            **arguments,
            "library": self.torch_library,
            "architecture": self.torch_class,
            "config": dict(self.torch_config),
            "inputs": [[t.name, t.datatype.value, list(t.shape)] for t in self.signature.inputs],
            "outputs": [[t.name, t.datatype.value, list(t.shape)] for t in outputs],
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What to load, after request, catalog entry and the source's own config are taken together."""

    task: str
    family: Family
    library: str
    """``transformers``, ``timm`` or ``deepseek``."""
    name: str
    """Name of the architecture inside the library; may be empty when ``config`` says it."""
    config: dict[str, Any]
    """Content of the source's ``config.json``; empty without one."""
    entry: CatalogEntry | None
    random_weights: bool
    seed: int


def load_model(request: PrepareRequest, source: Source) -> LoadedModel:
    """Load the model of a request from its source.

    Raises:
        SourceError: the architecture is not known, or the weights do not belong to it.
    """
    return load_planned(make_plan(request, source), source)


def load_planned(plan: Plan, source: Source) -> LoadedModel:
    """Load a model that is exported as a graph: any but those that generate.

    Raises:
        SourceError: the architecture is not known, or the weights do not belong to it.
    """
    # Each imports a large library; only the one that is needed is imported.
    if plan.family == "encoder":
        from deepseek_engine.prepare.architectures.encoders import load_encoder

        return load_encoder(plan, source)
    if plan.family == "decoder":
        from deepseek_engine.prepare.architectures.decoders import load_decoder

        return load_decoder(plan, source)
    if plan.family == "volume":
        from deepseek_engine.prepare.architectures.volumes import load_volume

        return load_volume(plan, source)
    from deepseek_engine.prepare.architectures.vision import load_vision

    return load_vision(plan, source)


def make_plan(request: PrepareRequest, source: Source) -> Plan:
    """Decide task, library and architecture.

    Raises:
        SourceError: the task cannot be prepared, or nothing names the architecture.
    """
    entry = CatalogEntry.model_validate(request.entry) if request.entry else None
    config = _read_config(source)
    named = source.random_architecture or (entry.architecture if entry else "")
    library, name = _library_and_name(named, config)
    wanted = request.task or (entry.task if entry else "")
    family = family_of(library, name, wanted)
    task = wanted or TASKS[family]
    if entry is not None and entry.availability:
        raise SourceError(
            f"'{entry.name}' cannot be prepared yet.",
            hint=entry.availability,
            code=ErrorCode.UNIMPLEMENTED,
            reason="NotAvailableYet",
        )
    if task not in TASKS.values():
        raise SourceError(
            f"Models of task '{task}' cannot be prepared yet.",
            hint=f"Tasks that can: {', '.join(sorted(set(TASKS.values())))}.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="UnsupportedTask",
        )
    if not library:
        raise SourceError(
            "Nothing says which architecture these weights belong to.",
            hint="Put the model's config.json beside them, use a catalog name, or name it: "
            "--architecture timm/NAME (in Python: architecture=...).",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="UnknownArchitecture",
        )
    if task != TASKS[family]:
        raise SourceError(
            f"The architecture '{library}/{name}' does the task '{TASKS[family]}', not '{task}'.",
            hint="Leave the task out, or name weights of an architecture that does it.",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="UnsupportedTask",
        )
    return Plan(
        task=task,
        family=family,
        library=library,
        name=name,
        config=config,
        entry=entry,
        random_weights=source.weights is None or request.random_weights,
        seed=source.seed if source.weights is None else request.seed,
    )


def config_of(plan: Plan, model_types: Collection[str]) -> Mapping[str, Any]:
    """The fields of a plan's ``config.json``, or those that are known by its name.

    Args:
        plan: what to load.
        model_types: values of ``model_type`` that the caller can build; named when there are none.

    Raises:
        SourceError: the architecture is not known.
    """
    fields = plan.config or KNOWN_CONFIGS.get(plan.name)
    if fields is None:
        known = sorted(n for n, c in KNOWN_CONFIGS.items() if c["model_type"] in model_types)
        raise SourceError(
            f"The architecture '{plan.name}' is not known by name.",
            hint=f"Known: {', '.join(known)}; others need a config.json beside the weights.",
            code=ErrorCode.NOT_FOUND,
            reason="UnknownArchitecture",
        )
    return fields


def weights_of(source: Source) -> StateDict:
    """The tensors of a source that has weights."""
    if source.weights is None:
        raise SourceError(f"The source '{source.uri}' has no weights.", reason="WeightsNotFound")
    return read_state_dict(source.weights)


def _read_config(source: Source) -> dict[str, Any]:
    if source.folder is None:
        return {}
    try:
        config = json.loads((source.folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise SourceError(
            "The config.json beside the weights is not valid JSON.",
            hint="Fetch it again from where the weights came.",
            reason="InvalidConfig",
        ) from error
    return config if isinstance(config, dict) else {}


def _library_and_name(named: str, config: Mapping[str, Any]) -> tuple[str, str]:
    """Library and architecture; the source's own config knows best, then the given name."""
    if "architecture" in config:  # timm's form of config.json
        return "timm", str(config["architecture"])
    if config.get("model_type") == UNET3D:
        return "deepseek", UNET3D
    if "model_type" in config:
        return "transformers", str(config["model_type"])
    library, slash, name = named.partition("/")
    if slash:
        return library, name
    return library_of(named), named
