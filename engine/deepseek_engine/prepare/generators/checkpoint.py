"""One folder with a plain checkpoint, whatever the source was.

Why it exists: variants are streamed from a folder with ``config.json`` and safetensors. Files of
the source are linked into it and not copied; only pickles and random weights are written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from deepseek_api.errors import ErrorCode, SourceError
from safetensors.torch import save_file

from deepseek_engine.prepare.architectures.base import Plan, config_of, weights_of
from deepseek_engine.prepare.known import GENERATORS
from deepseek_engine.prepare.sources import Source
from deepseek_engine.quant.checkpoint import INDEX, SINGLE, Checkpoint

__all__ = ["GENERATION_CONFIG", "lay_out"]

CONFIG: Final = "config.json"
GENERATION_CONFIG: Final = "generation_config.json"


def lay_out(plan: Plan, source: Source, folder: Path) -> dict[str, Any]:
    """Bring the weights of a plan into an empty folder; gives the content of ``config.json``.

    Raises:
        SourceError: the architecture is not known or not supported, or the weights are damaged.
    """
    config = _config(plan)
    if plan.random_weights:
        return _random(config, plan.seed, folder)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    _copy_generation_config(source, folder)
    weights = source.weights
    assert weights is not None  # without weights they are random
    if weights.name == INDEX:
        with Checkpoint(weights.parent) as checkpoint:  # finds what the index lacks
            names = list(checkpoint.files)
        for name in (INDEX, *names):
            (folder / name).symlink_to((weights.parent / name).resolve())
    elif weights.suffix == ".safetensors":
        (folder / SINGLE).symlink_to(weights.resolve())
    else:
        plain = {name: value.contiguous() for name, value in _untied(weights_of(source))}
        save_file(plain, folder / SINGLE)
    return config


def _config(plan: Plan) -> dict[str, Any]:
    fields = config_of(plan, GENERATORS)
    model_type = str(fields.get("model_type"))
    if model_type not in GENERATORS:
        raise SourceError(
            f"Models of the type '{model_type}' cannot be prepared to generate.",
            hint=f"Types that can: {', '.join(sorted(GENERATORS))}.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="UnsupportedArchitecture",
        )
    if "quantization_config" in fields:
        raise SourceError(
            "The checkpoint is quantized already.",
            hint="Prepare the original weights; rounding twice adds the errors of both.",
            reason="AlreadyQuantized",
        )
    return dict(fields)


def _random(config: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Write weights drawn as the authors of the architecture draw them before training."""
    from transformers import AutoConfig, AutoModelForCausalLM

    own = {key: value for key, value in config.items() if key != "model_type"}
    torch.manual_seed(seed)
    try:
        built = AutoConfig.for_model(config["model_type"], **own)
        kind: Any = AutoModelForCausalLM
        module = kind.from_config(built, dtype=torch.float32)
    except Exception as error:  # what a wrong field raises depends on the field
        raise SourceError(
            f"The config.json describes no model that can be built: {type(error).__name__}.",
            hint="Use the config.json that belongs to these weights.",
            reason="InvalidConfig",
        ) from error
    # Through the library's own way of saving, which writes the hub's names whatever it computes in.
    module.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # that library lets nobody but the owner read
    stored: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
    return stored


def _copy_generation_config(source: Source, folder: Path) -> None:
    found = source.folder / GENERATION_CONFIG if source.folder else None
    if found is not None and found.is_file():
        shutil.copyfile(found, folder / GENERATION_CONFIG)


def _untied(state: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor once: of several names for one the first, as safetensors demands."""
    seen: set[tuple[int, torch.Size]] = set()
    for name, value in state.items():
        key = (value.data_ptr() or id(value), value.shape)
        if key not in seen:
            seen.add(key)
            yield name, value
