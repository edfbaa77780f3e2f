"""From a source and a catalog entry to a torch module with everything that serving it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deepseek_api.catalog import CatalogEntry
from deepseek_api.errors import ErrorCode, SourceError
from deepseek_api.manifest import Signature
from deepseek_api.processing import Postprocessing, Preprocessing
from torch import nn

from deepseek_engine.prepare.messages import PrepareRequest
from deepseek_engine.prepare.sources import Source
from deepseek_engine.prepare.state_dicts import StateDict, read_state_dict

Family = Literal["encoder", "vision"]
TASKS: dict[str, Family] = {"text-embedding": "encoder", "image-classification": "vision"}
"""Tasks that can be prepared and the family of models that does each."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in fp32, ready to be exported, compared and described."""

    family: Family
    module: nn.Module
    """In eval mode. Encoders take ``input_ids, attention_mask`` and return token vectors; vision
    models take pixels ``[N, 3, H, W]`` and return logits."""
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

    def torch_description(self) -> dict[str, Any]:
        """The torch variant's graph file, but for the name of its weights."""
        encoder = self.family == "encoder"
        outputs = [[t.name, t.datatype.value, list(t.shape)] for t in self.signature.outputs]
        if encoder:
            # The torch back end returns what the class returns: vectors of tokens.
            hidden = self.signature.outputs[0].shape[-1]
            outputs = [["last_hidden_state", "FP32", [-1, -1, hidden]]]
        # No pooler: the weights have none, and the class would make one of random numbers.
        arguments = {"arguments": {"add_pooling_layer": False}} if encoder else {}
        return {
            **arguments,
            "library": "transformers" if encoder else "timm",
            "architecture": self.torch_class,
            "config": dict(self.torch_config),
            "inputs": [[t.name, t.datatype.value, list(t.shape)] for t in self.signature.inputs],
            "outputs": outputs,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What to load, after request, catalog entry and the source's own config are taken together."""

    task: str
    library: str
    """``transformers`` or ``timm``."""
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
    # Both import a large library; only the one that is needed is imported.
    plan = make_plan(request, source)
    if TASKS[plan.task] == "encoder":
        from deepseek_engine.prepare.architectures.encoders import load_encoder

        return load_encoder(plan, source)
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
    task = request.task or (entry.task if entry else "") or _usual_task(library)
    if entry is not None and entry.availability:
        raise SourceError(
            f"'{entry.name}' cannot be prepared yet.",
            hint=entry.availability,
            code=ErrorCode.UNIMPLEMENTED,
            reason="NotAvailableYet",
        )
    if task not in TASKS:
        raise SourceError(
            f"Models of task '{task}' cannot be prepared yet.",
            hint=f"Tasks that can: {', '.join(sorted(TASKS))}.",
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
    return Plan(
        task=task,
        library=library,
        name=name,
        config=config,
        entry=entry,
        random_weights=source.weights is None or request.random_weights,
        seed=source.seed if source.weights is None else request.seed,
    )


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
    if "model_type" in config:
        return "transformers", str(config["model_type"])
    library, slash, name = named.partition("/")
    if slash:
        return library, name
    return _guess_library(named), named


def _guess_library(name: str) -> str:
    """The library of a name given without one, as in ``random://resnet50``."""
    if not name:
        return ""
    return "transformers" if "bert" in name.lower() or "minilm" in name.lower() else "timm"


def _usual_task(library: str) -> str:
    return "text-embedding" if library == "transformers" else "image-classification"
