"""Exchanging the layers of a module for quantized ones.

Why it exists: quantizing a module and loading a quantized checkpoint into one do the same thing. A
layer may be reached by several names, and several layers may share one weight (the embedding and
the head of a language model); both stay so.

Imports torch; import it only where a torch variant is opened or made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from deepseek_engine.quant.blocks import LayerWeight
from deepseek_engine.quant.convolutions import CONVOLUTIONS
from deepseek_engine.quant.layers import QuantizedEmbedding, QuantizedLayer, QuantizedLinear
from deepseek_engine.quant.schemes import Scheme


def is_conv1d_of_transformers(module: nn.Module) -> bool:
    """Whether a layer is transformers' Conv1D: a linear layer with the weight ``[K, N]``."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def is_linear(module: nn.Module) -> bool:
    """Whether a layer multiplies its input by its weight and does nothing else."""
    return type(module) is nn.Linear or is_conv1d_of_transformers(module)


def can_quantize(module: nn.Module) -> bool:
    """Whether there is a quantized layer that can stand for a module.

    Subclasses are left alone: they may read the weight in ways of their own.
    """
    kind = type(module)
    if kind is nn.Embedding:
        return isinstance(module, nn.Embedding) and module.max_norm is None
    return is_linear(module) or kind in CONVOLUTIONS


def weight_matrix(module: nn.Module) -> torch.Tensor:
    """The weight of a layer as ``[N, K]``: a row for each index of its first dimension.

    That is an output feature, but for transposed convolutions, which store input channels first.
    """
    weight: torch.Tensor = module._parameters["weight"]  # type: ignore[assignment]
    return weight.detach().t() if is_conv1d_of_transformers(module) else weight.detach().flatten(1)


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of a layer's weight whose rows `weight_matrix` gives."""
    weight: Any = module.weight
    return tuple(weight.shape[::-1] if is_conv1d_of_transformers(module) else weight.shape)


def quantized_layer(module: nn.Module, weight: LayerWeight, scheme: Scheme) -> QuantizedLayer:
    """The layer that stands for a module, with a weight rounded from `weight_matrix`.

    Raises:
        TypeError: there is none; `can_quantize` tells.
    """
    like: Any = module
    if type(module) in CONVOLUTIONS:
        return CONVOLUTIONS[type(module)](module, weight, scheme)
    if isinstance(module, nn.Embedding):
        return QuantizedEmbedding(weight, scheme, dtype=like.weight.dtype)
    if is_linear(module):
        return QuantizedLinear(weight, scheme, bias=like.bias, dtype=like.weight.dtype)
    raise TypeError(f"no quantized layer stands for {type(module).__name__}")


def weight_owners(root: nn.Module) -> Iterator[tuple[str, nn.Module, list[nn.Module]]]:
    """Each weight once: the first name and layer that hold it, and other layers that share it."""
    owners: dict[int, tuple[str, nn.Module, list[nn.Module]]] = {}
    for name, module in root.named_modules():
        weight = module._parameters.get("weight")
        if weight is None:
            continue
        if id(weight) in owners:
            owners[id(weight)][2].append(module)
        else:
            owners[id(weight)] = (name, module, [])
    yield from owners.values()


def exchange(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module wherever another one is inside ``root``."""
    for parent in root.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
