"""Writing quantized checkpoints in the format of compressed-tensors.

Why it exists: a stream over another checkpoint and a module in memory are written in the same way.
The contents are planned from shapes alone, so that a file's header can be written first and the
tensors one after the other.

Imports torch; import it only where a torch variant is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepseek_engine.quant.checkpoint import INDEX, METHOD, OWN_KEY, SINGLE
from deepseek_engine.quant.encoding import encoded_specs
from deepseek_engine.quant.schemes import Scheme, WeightFormat
from deepseek_engine.quant.tensor_files import TensorSpec

FORMAT_VERSION = "0.15.0"
"""The version of compressed-tensors whose description of groups is written."""


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """A layer that will be quantized."""

    name: str
    scheme: Scheme
    shape: tuple[int, ...]
    """Of its weight with output features first."""
    kind: str
    """``linear``, ``conv`` or ``embedding``."""

    def specs(self) -> dict[str, TensorSpec]:
        """Its tensors by their full names."""
        found = encoded_specs(self.scheme, self.shape)
        return {f"{self.name}.{part}": spec for part, spec in found.items()}


@dataclass(slots=True)
class PlannedFile:
    """A file of the checkpoint: tensors by name, in order."""

    name: str
    specs: dict[str, TensorSpec] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(spec.nbytes for spec in self.specs.values())


def quantization_config(layers: Iterable[PlannedLayer], kept: Iterable[str]) -> dict[str, Any]:
    """The ``quantization_config`` of ``config.json``.

    Args:
        layers: what is quantized.
        kept: linear layers that are not; readers that match by class must leave them alone.
    """
    groups: dict[tuple[Scheme, WeightFormat], list[str]] = {}
    kinds = set()
    for layer in layers:
        # Filters have the naive layout, whatever a matrix of the scheme has.
        stored = WeightFormat.NAIVE if len(layer.shape) > 2 else layer.scheme.format
        groups.setdefault((layer.scheme, stored), []).append(layer.name)
        kinds.add(layer.kind)
    if len(groups) == 1 and kinds == {"linear"}:
        # One scheme: a class is shorter than thousands of names, and what others expect.
        groups = {key: ["Linear"] for key in groups}
    formats = {stored for _, stored in groups}
    described = {
        f"group_{number}": {**scheme.to_config(targets), "format": stored.value}
        for number, ((scheme, stored), targets) in enumerate(groups.items())
    }
    return {
        "quant_method": METHOD,
        "version": FORMAT_VERSION,
        "quantization_status": "compressed",
        "format": next(iter(formats)).value if len(formats) == 1 else "mixed-precision",
        "config_groups": described,
        "ignore": sorted(kept),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def write_config(
    folder: Path,
    config: Mapping[str, Any],
    layers: Iterable[PlannedLayer],
    kept: Iterable[str],
    own: Mapping[str, Any],
) -> None:
    """Write ``config.json`` with the description of the quantized layers, if there are any.

    Args:
        folder: of the checkpoint.
        config: of the original.
        layers: what is quantized.
        kept: linear layers that are not.
        own: what only this project's reader uses, under `OWN_KEY`: the policy's name, and under
            ``cast`` linear layers that compute in a 16-bit type of their own.
    """
    found = dict(config)
    planned = list(layers)
    found.pop("quantization_config", None)
    if planned:
        found["quantization_config"] = quantization_config(planned, kept)
    found[OWN_KEY] = dict(own)
    (folder / "config.json").write_text(json.dumps(found, indent=2) + "\n")


def write_index(folder: Path, files: Iterable[PlannedFile]) -> None:
    """Write the index of a checkpoint of several files; a single file needs none."""
    planned = list(files)
    if [file.name for file in planned] == [SINGLE]:
        return
    index = {
        "metadata": {"total_size": sum(file.nbytes for file in planned)},
        "weight_map": {name: file.name for file in planned for name in file.specs},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
