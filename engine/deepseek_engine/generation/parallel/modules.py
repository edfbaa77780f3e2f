"""Whole modules of transformers cut into one rank's part: encoders shard like decoders.

Why it exists: the torch families (BERT, the encoder of T5, GPT-2) are classes of another library,
whose blocks are made of the same products as ours. Their products are exchanged for the sharded
layers by the rules of `slices`; what is between them stays that library's. It needs the whole
module in memory, which suits encoders; decoders are read in parts.
"""

from __future__ import annotations

from typing import Any

import torch
from deepseek_api.errors import ErrorCode, PrecisionError
from torch import nn

from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.layers import (
    RowLinear,
    VocabularyEmbedding,
    VocabularyLogits,
)
from deepseek_engine.generation.parallel.slices import Cut, ModelShape, ShardPlan, cut_tensor

__all__ = ["FAMILIES", "shape_of", "shard_module"]

FAMILIES = ("bert", "t5", "gpt2")
"""Values of ``model_type`` whose modules can be cut."""


def shape_of(config: Any) -> ModelShape:
    """What dividing must know, from a configuration of transformers.

    Raises:
        PrecisionError: UNIMPLEMENTED; the family cannot be cut.
    """
    if config.model_type not in FAMILIES:
        raise PrecisionError(
            f"A model of the family '{config.model_type}' cannot be divided over processes.",
            hint=f"Families that can: {', '.join(FAMILIES)}.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="NotDivisible",
        )
    return ModelShape(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
    )


def shard_module(module: nn.Module, context: ParallelContext) -> nn.Module:
    """Cut a module of transformers to a rank's part, in place.

    Args:
        module: with all its weights, in evaluation mode; the same on every rank.
        context: this rank's place among tensor ranks.

    Returns:
        The module, which gives whole answers on every rank that calls it with the same inputs.

    Raises:
        ConfigurationError: ``InvalidParallelism``; heads or widths cannot be shared evenly.
        PrecisionError: the family cannot be cut.
    """
    shape = shape_of(module.config)
    plan = ShardPlan(shape, context)
    if context.tensor_size == 1:
        return module
    exchanged: dict[int, nn.Module] = {}
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.ndim < 2:
            continue
        cut = plan.cut(f"{name}.weight", weight.shape)
        if cut is None or not cut.ranges:
            continue
        if id(layer) not in exchanged:
            exchanged[id(layer)] = _part(layer, name, cut, plan, context)
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, exchanged[id(layer)])
    for layer in module.modules():
        _tell_heads(layer, context.tensor_size)
    return module


def _part(
    layer: nn.Module, name: str, cut: Cut, plan: ShardPlan, context: ParallelContext
) -> nn.Module:
    weight: Any = layer.weight
    bias: Any = getattr(layer, "bias", None)
    part = cut_tensor(weight.detach(), cut)
    if isinstance(layer, nn.Embedding):
        if cut.dim == 1:  # A number for each head and distance.
            return nn.Embedding(part.shape[0], part.shape[1], _weight=part)
        return VocabularyEmbedding(part, plan.vocabulary.size, context)
    stored_by_inputs = not isinstance(layer, nn.Linear)  # GPT-2's own class
    along_inputs = cut.dim == (0 if stored_by_inputs else 1)
    part = part.t().contiguous() if stored_by_inputs else part
    if name.rpartition(".")[2] == "lm_head":
        return VocabularyLogits(_linear(part, None), plan.vocabulary.size, context)
    if along_inputs:
        whole = None if bias is None else bias.detach()
        return RowLinear(_linear(part, None), context, bias=whole)
    if bias is not None:
        own = plan.cut(f"{name}.bias", bias.shape)
        assert own is not None
        bias = cut_tensor(bias.detach(), own)
    return _linear(part, bias)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _tell_heads(layer: nn.Module, size: int) -> None:
    """Correct the numbers that attention layers of the families keep of their own."""
    kind = type(layer).__name__
    known: Any = layer
    if kind == "GPT2Attention":
        known.split_size //= size
        known.num_heads //= size
    elif kind == "T5Attention":
        known.n_heads //= size
        known.inner_dim //= size
    elif kind == "BertSelfAttention":
        known.num_attention_heads //= size
        known.all_head_size //= size
