"""Checkpoints of safetensors, plain or quantized: opening them and loading them into a module.

Why it exists: a checkpoint is one file, or files with an index, beside a ``config.json``. Tensors
are read one by one, so that memory holds the module and one tensor. What is missing, left over or
of another shape is an error that names it: a module with some random weights answers nonsense.

Imports torch; import it only where a torch variant is opened or made.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from deepseek_api.errors import SourceError
from torch import nn

from deepseek_engine.quant.blocks import LayerWeight
from deepseek_engine.quant.encoding import DATA, PARTS, SCALE, decode
from deepseek_engine.quant.exchange import (
    can_quantize,
    exchange,
    is_linear,
    quantized_layer,
    weight_matrix,
    weight_owners,
    weight_shape,
)
from deepseek_engine.quant.layers import CastLinear, QuantizedLayer
from deepseek_engine.quant.schemes import Scheme, scheme_from_config
from deepseek_engine.quant.tensor_files import TensorFile, TensorSpec

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
METHOD = "compressed-tensors"
OWN_KEY = "deepseek_quantization"
"""Where ``config.json`` says what other readers of the format do not need."""
DTYPES_OF_SCHEMES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Types of schemes that are plain floating point."""
SHOWN = 4
"""Names that an error lists."""


class Checkpoint:
    """Tensors of a folder or a single file by name; close it after use."""

    def __init__(self, path: Path) -> None:
        """Open a checkpoint and read its headers.

        Args:
            path: a ``.safetensors`` file, or a folder with one or with an index of several.

        Raises:
            SourceError: nothing is there, a file of the index is missing, or a file is damaged.
        """
        self.folder = path if path.is_dir() else path.parent
        self.files: dict[str, TensorFile] = {}
        self._where: dict[str, str] = {}
        try:
            for name in _file_names(path):
                self.files[name] = TensorFile(self.folder / name)
                self._where |= dict.fromkeys(self.files[name].specs, name)
            _check_index(self.folder, path, self._where)
            self.config = _read_json(self.folder / "config.json")
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> Iterator[str]:
        """Names of all tensors, file by file."""
        return iter(self._where)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.spec(name).nbytes for name in self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def spec(self, name: str) -> TensorSpec:
        """Type and shape of a tensor."""
        return self.files[self._where[name]].specs[name]

    def read(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """A tensor or some of its rows."""
        return self.files[self._where[name]].read(name, first, last)

    def quantized_layers(self) -> dict[str, Scheme]:
        """The scheme of every quantized layer by the layer's name; empty for a plain checkpoint.

        Raises:
            PrecisionError: a group is quantized in a way that this release does not know.
            SourceError: a layer has scales and no group describes it, or another method was used.
        """
        config = self.config.get("quantization_config")
        if not isinstance(config, Mapping):
            return {}
        if config.get("quant_method") != METHOD:
            raise SourceError(
                f"The checkpoint is quantized with '{config.get('quant_method')}'.",
                hint=f"Only checkpoints of '{METHOD}' are read; quantize the original weights.",
                reason="UnknownScheme",
            )
        groups = [
            (entry.get("targets") or [], scheme_from_config(name, entry))
            for name, entry in dict(config.get("config_groups") or {}).items()
            if isinstance(entry, Mapping)
        ]
        layers = [n.removesuffix(f".{SCALE}") for n in self._where if n.endswith(f".{SCALE}")]
        return {layer: _scheme_of(layer, groups) for layer in layers}

    def read_weight(self, layer: str, scheme: Scheme) -> LayerWeight:
        """The weight of a quantized layer.

        Raises:
            SourceError: its tensors do not fit the scheme.
        """
        names = {part: f"{layer}.{part}" for part in (DATA, *PARTS)}
        parts = {part: self.read(name) for part, name in names.items() if name in self}
        return decode(parts, scheme, layer)

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load_into(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into the module of its architecture, exchanging quantized layers.

    Plain tensors are cast to the type that the module's parameters have. Weights that the module
    shares between layers may be there once.

    Raises:
        SourceError: the tensors are not exactly those of the module; the message names some.
        PrecisionError: see `Checkpoint.quantized_layers`.
    """
    schemes = checkpoint.quantized_layers()
    for layer, scheme in schemes.items():
        _load_quantized(module, layer, scheme, checkpoint)
    _cast_layers(module, checkpoint.config)
    used = {f"{layer}.{part}" for layer in schemes for part in (DATA, *PARTS)}
    shared = {id(tensor): name for name, tensor in _named_tensors(module) if name in checkpoint}
    missing = []
    for name, tensor in _named_tensors(module):
        source = name if name in checkpoint else shared.get(id(tensor))
        if source is None:
            missing.append(name)
            continue
        _copy(tensor, checkpoint, source)
        used.add(source)
    extra = [name for name in checkpoint.names if name not in used]
    if missing or extra:
        raise _other_tensors(missing, extra)


def _load_quantized(module: nn.Module, layer: str, scheme: Scheme, checkpoint: Checkpoint) -> None:
    owners = {id(m): (m, others) for _, m, others in weight_owners(module)}
    try:
        found = module.get_submodule(layer)
    except AttributeError:
        raise _other_tensors([], [layer]) from None
    if not can_quantize(found):
        raise SourceError(
            f"The layer '{layer}' is quantized in the checkpoint and is a {type(found).__name__} "
            "in the model, which cannot be.",
            hint="Check that the checkpoint belongs to this architecture.",
            reason="TensorsDoNotFit",
        )
    weight = checkpoint.read_weight(layer, scheme)
    expected = weight_shape(found)
    if weight.shape != (expected[0], math.prod(expected[1:])):
        raise _wrong_shape(layer, tuple(weight.shape), expected)
    for sharing in (found, *owners.get(id(found), (found, []))[1]):
        if can_quantize(sharing):
            exchange(module, sharing, quantized_layer(sharing, weight, scheme))


def _cast_layers(module: nn.Module, config: Mapping[str, Any]) -> None:
    """Exchange linear layers that compute in a 16-bit type of their own."""
    own = config.get(OWN_KEY)
    listed = own.get("cast") if isinstance(own, Mapping) else None
    for name, scheme in dict(listed or {}).items():
        try:
            found = module.get_submodule(str(name))
        except AttributeError:
            raise _other_tensors([], [str(name)]) from None
        dtype = DTYPES_OF_SCHEMES.get(str(scheme))
        if dtype is not None and is_linear(found):
            bias = found._parameters.get("bias")
            exchange(module, found, CastLinear(weight_matrix(found), bias, dtype))


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and stored buffers by every name; not those of quantized weights."""
    for prefix, part in module.named_modules(remove_duplicate=False):
        held = part._parameters | {
            name: buffer
            for name, buffer in part._buffers.items()
            if name not in part._non_persistent_buffers_set
        }
        stored = QuantizedLayer.STORED if isinstance(part, QuantizedLayer) else frozenset()
        for name, tensor in held.items():
            if tensor is not None and name not in stored:
                yield f"{prefix}.{name}" if prefix else name, tensor


@torch.no_grad()
def _copy(tensor: torch.Tensor, checkpoint: Checkpoint, name: str) -> None:
    spec, wanted = checkpoint.spec(name), tuple(tensor.shape)
    if spec.shape != wanted:
        raise _wrong_shape(name, spec.shape, wanted)
    tensor.copy_(checkpoint.read(name))


def _scheme_of(layer: str, groups: list[tuple[list[str], Scheme]]) -> Scheme:
    for targets, scheme in groups:
        if any(_names(target, layer) for target in targets):
            return scheme
    for targets, scheme in groups:  # classes of layers, which a checkpoint does not name
        if any(target in {"Linear", "Embedding"} for target in targets):
            return scheme
    raise SourceError(
        f"The layer '{layer}' has scales, and no group of the config.json describes it.",
        hint="Fetch the checkpoint again, config.json included.",
        reason="UnknownScheme",
    )


def _names(target: str, layer: str) -> bool:
    if target.startswith("re:"):
        return re.match(target[3:], layer) is not None
    return target == layer


def _file_names(path: Path) -> list[str]:
    if path.is_file():
        return [path.name]
    index = _read_json(path / INDEX)
    if index:
        listed = set(map(str, dict(index.get("weight_map") or {}).values()))
        # Names only: an index must not lead out of its folder.
        return sorted(name for name in listed if Path(name).name == name)
    found = sorted(file.name for file in path.glob("*.safetensors")) if path.is_dir() else []
    if SINGLE in found or len(found) == 1:
        return [SINGLE] if SINGLE in found else found
    what = f"{len(found)} safetensors files and no index" if found else "no safetensors files"
    raise SourceError(
        f"'{path.name}' is no checkpoint: there are {what}.",
        hint=f"Name a .safetensors file, or a folder with {SINGLE} or {INDEX}.",
        reason="WeightsNotFound",
    )


def _check_index(folder: Path, path: Path, found: Mapping[str, str]) -> None:
    index = {} if path.is_file() else _read_json(folder / INDEX)
    missing = [name for name in dict(index.get("weight_map") or {}) if name not in found]
    if missing:
        raise SourceError(
            f"The index names {len(missing)} tensors that no file has: {_some(missing)}.",
            hint="Fetch the files of the checkpoint again.",
            reason="TensorMissing",
        )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise SourceError(
            f"'{path.name}' is not valid JSON.",
            hint="Fetch it again from where the weights came.",
            reason="InvalidConfig",
        ) from error
    return found if isinstance(found, dict) else {}


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def _wrong_shape(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> SourceError:
    return SourceError(
        f"'{name}' has the shape {list(given)} in the checkpoint and {list(wanted)} in the model.",
        hint="Check that the checkpoint belongs to this architecture and configuration.",
        reason="TensorShapeWrong",
    )


def _other_tensors(missing: list[str], extra: list[str]) -> SourceError:
    parts = []
    if missing:
        parts.append(f"it lacks {len(missing)} ({_some(missing)})")
    if extra:
        parts.append(f"it has {len(extra)} that the model does not know ({_some(extra)})")
    return SourceError(
        f"The checkpoint does not have the tensors of the model: {', and '.join(parts)}.",
        hint="Check that the checkpoint belongs to this architecture and configuration.",
        reason="TensorMissing" if missing else "TensorUnknown",
    )
