"""Loading LoRA adapters in peft's format beside a decoder.

Why it exists: what peft saves (``adapter_config.json`` and ``adapter_model.safetensors``) names
layers of the hub, while the decoder holds some of them as one product. An adapter that would be
applied in part, or in another way than it was trained, is refused by name. Imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from deepseek_api.errors import BundleError, SourceError
from torch import nn

from deepseek_engine.generation.decoder.adapted import Adapted, Selection
from deepseek_engine.generation.decoder.model import Decoder
from deepseek_engine.generation.decoder.places import Place
from deepseek_engine.generation.fields import Fields, read_json
from deepseek_engine.generation.parallel.slices import Cut, cut_tensor
from deepseek_engine.quant.tensor_files import TensorFile

__all__ = ["load_adapters"]

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"^base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight$")
_HINT = "Use a LoRA adapter that was trained for this model."


@dataclass(frozen=True, slots=True)
class _Ranks:
    """What the configuration says of ranks and factors."""

    rank: int
    alpha: float
    stabilized: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def factor(self, layer: str) -> tuple[int, float]:
        """Rank of a layer, and what its addition is multiplied with."""
        rank = int(_matching(self.ranks, layer, self.rank))
        alpha = float(_matching(self.alphas, layer, self.alpha))
        return rank, alpha / (rank**0.5 if self.stabilized else rank)


def load_adapters(decoder: Decoder, folders: Mapping[str, Path]) -> tuple[str, ...]:
    """Load adapters beside a decoder, once; a token's adapter is an index into the result.

    Args:
        decoder: keeps its own weights, quantized or not.
        folders: by name.

    Raises:
        BundleError: a configuration is missing or asks for what is not computed here.
        SourceError: a tensor is missing, has another shape, or belongs to no layer of the model.
    """
    names = tuple(folders)
    selection = Selection(len(names))
    wrapped: dict[int, Adapted] = {}
    for index, (name, folder) in enumerate(folders.items()):
        ranks = _read_config(folder)
        with TensorFile(folder / TENSORS) as file:
            for layer, parts in _layers(name, file).items():
                place = decoder.places.find(layer)
                if place is None:
                    raise SourceError(
                        f"The adapter '{name}' changes '{layer}', which is no product of the "
                        "model.",
                        hint=_HINT,
                        reason="TensorUnknown",
                    )
                down, up = _pair(name, layer, parts, ranks, place, file)
                module = wrapped.get(id(place.module))
                if module is None:
                    module = wrapped[id(place.module)] = Adapted(place.module, selection)
                    _put(decoder, place.module, module)
                module.add(index, *(part.to(decoder.device, decoder.dtype) for part in (down, up)))
    decoder.selection = selection if names else None
    return names


def _put(decoder: Decoder, old: nn.Module, new: Adapted) -> None:
    """Put a wrapper wherever what it wraps is inside the decoder."""
    for parent in list(decoder.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _read_config(folder: Path) -> _Ranks:
    fields = Fields(read_json(folder / CONFIG), f"{CONFIG}: ")
    fields.one_of("peft_type", ("LORA",))
    for name, *allowed in (
        ("use_dora", False), ("bias", "none"), ("modules_to_save", []), ("lora_bias", False),
        ("trainable_token_indices", []), ("use_qalora", False),
    ):  # fmt: skip
        fields.only(name, *allowed)
    patterns = [fields.raw(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    return _Ranks(
        rank=fields.whole("r"),
        alpha=fields.number("lora_alpha"),
        stabilized=fields.flag("use_rslora", False),
        ranks=patterns[0],
        alphas=patterns[1],
    )


def _layers(name: str, file: TensorFile) -> dict[str, dict[str, str]]:
    """Names of A and B by layer."""
    found: dict[str, dict[str, str]] = {}
    for tensor in file.specs:
        match = _NAME.match(tensor)
        if match is None:
            raise SourceError(
                f"The adapter '{name}' has the tensor '{tensor}', which is not applied here.",
                hint="Train an adapter of linear layers only.",
                reason="TensorUnknown",
            )
        found.setdefault(match["layer"], {})[match["part"]] = tensor
    if not found:
        raise BundleError(f"The adapter '{name}' is empty.", hint=_HINT, reason="InvalidConfig")
    return found


def _pair(
    name: str,
    layer: str,
    parts: Mapping[str, str],
    ranks: _Ranks,
    place: Place,
    file: TensorFile,
) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's A, and B among the rows of its product, with its factor."""
    rank, factor = ranks.factor(layer)
    outputs, inputs = place.shape
    for part, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
        tensor = parts.get(part)
        if tensor is None or file.specs[tensor].shape != shape:
            what = "is missing" if tensor is None else f"is {list(file.specs[tensor].shape)}"
            raise SourceError(
                f"The adapter '{name}' does not fit: lora_{part} of '{layer}' {what}, and "
                f"{list(shape)} is needed.",
                hint=_HINT,
                reason="TensorMissing" if tensor is None else "TensorShapeWrong",
            )
    down, up = file.read(parts["A"]).float(), file.read(parts["B"]).float() * factor
    if place.cut.ranges and place.along_outputs:
        up = cut_tensor(up, Cut(0, place.cut.ranges, place.cut.padding))
    elif place.cut.ranges:
        down = cut_tensor(down, Cut(1, place.cut.ranges))
    whole = up.new_zeros(place.rows, rank)
    whole[place.first : place.first + len(up)] = up
    return down, whole


def _matching(patterns: Mapping[str, float], layer: str, default: float) -> float:
    """The value of the first pattern that a layer's name ends with, as peft reads them."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default
