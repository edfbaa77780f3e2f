"""What a layer of a model is for, found from its class, its dotted name and its shape.

Why it exists: a policy speaks of attention and feed-forward layers, a module and a checkpoint only
have names. The names are those of transformers and timm for BERT, ViT, T5, GPT-2, Llama, ResNet
and UNets. Nothing here imports torch: a checkpoint is classified from its header alone.
"""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass
from typing import Literal

WeightKind = Literal["linear", "conv", "embedding", "other"]
"""How a weight is used: multiplied, convolved, looked up, or anything else."""


class LayerType(enum.StrEnum):
    """What a layer is for."""

    ATTENTION = "attention"
    FEED_FORWARD = "ffn"
    CONVOLUTION = "conv"
    EMBEDDING = "embedding"
    NORM = "norm"
    HEAD = "head"
    """Turns the last hidden state into classes or words."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with a weight, as policies see it."""

    name: str
    """Dotted, as in ``named_modules``."""
    type: LayerType
    kind: WeightKind
    shape: tuple[int, ...]
    """Of the weight with output features first: ``[N, K]``, ``[out, in, ...]``, ``[rows, K]``."""

    @property
    def parameters(self) -> int:
        """Numbers in the weight."""
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Numbers that one output feature is computed from: K."""
        return math.prod(self.shape[1:])


_HEADS = re.compile(
    r"(^|\.)(lm_head|heads?|mlp_head|classifier|score|qa_outputs|embed_out|output_projection|"
    r"logits)(\.|$)|^fc$|\bpredictions\.decoder$"
)
ROUTERS = r"(^|\.)(gate|router|router\.classifier|shared_expert_gate)$"
"""Names of layers that choose experts: tiny, and a wrong choice costs a whole answer."""
_ATTENTION = re.compile(
    r"(^|[._])(attn\d?|attention|selfattention|encdecattention|crossattention|self_attn|"
    r"cross_attn|encoder_attn)([._]|$)|"
    r"(^|\.)([qkvo]_proj|qkv|qkv_proj|query_key_value|to_(q|k|v|kv|qkv|out))(\.|$)"
)
_FEED_FORWARD = re.compile(
    r"(^|[._])(mlp|ffn?|feed_?forward|densereludense|experts?|intermediate)([._]|$)|"
    r"(^|\.)(fc[123]|wi|wi_[01]|wo|w[123]|gate_proj|up_proj|down_proj|gate_up_proj|lin(ear)?[12]|"
    r"dense_h_to_4h|dense_4h_to_h)$|(^|\.)layer\.\d+\.output\.dense$"
)
_TABLES = re.compile(
    r"(^|[._])(embed(ding)?s?|embed_tokens|embed_positions|tok_embeddings|wte|wpe|shared|"
    r"relative_attention_bias|(word|position|token_type|token)_embeddings?)(\.|$)"
)
_NORM_CLASS = re.compile(r"norm", re.IGNORECASE)
_CONV_CLASS = re.compile(r"^Conv(Transpose)?[123]d$")
TRANSPOSED_MODEL_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Values of ``model_type`` whose linear layers are transformers' Conv1D: weights ``[K, N]``."""
_TRANSPOSED = re.compile(r"(^|\.)(c_attn|c_proj|c_fc|q_attn)$")


def type_of(name: str, kind: WeightKind) -> LayerType:
    """What a layer is for, from its dotted name and the use of its weight."""
    if kind == "conv":
        return LayerType.CONVOLUTION
    if kind == "embedding":
        return LayerType.EMBEDDING
    if kind == "other":
        return LayerType.OTHER
    lowered = name.lower()
    if re.search(ROUTERS, lowered):
        return LayerType.OTHER
    # A name inside an attention block stays attention, even if it ends like something else.
    for pattern, found in (
        (_HEADS, LayerType.HEAD),
        (_ATTENTION, LayerType.ATTENTION),
        (_FEED_FORWARD, LayerType.FEED_FORWARD),
    ):
        if pattern.search(lowered):
            return found
    return LayerType.OTHER


def kind_of_class(class_name: str) -> WeightKind:
    """How a module uses its weight, from the name of its class."""
    if class_name in {"Linear", "Conv1D"}:
        return "linear"
    if _CONV_CLASS.match(class_name):
        return "conv"
    return "embedding" if class_name == "Embedding" else "other"


def is_norm_class(class_name: str) -> bool:
    """Whether a class normalizes."""
    return _NORM_CLASS.search(class_name) is not None


def layer_of_tensor(tensor: str, shape: tuple[int, ...], model_type: str = "") -> Layer | None:
    """The layer that a tensor of a checkpoint is the weight of; None if it is no such weight.

    Args:
        tensor: name in the checkpoint, for example ``model.layers.0.mlp.up_proj.weight``.
        shape: as stored.
        model_type: of ``config.json``; some store linear weights as ``[K, N]``.
    """
    name, _, part = tensor.rpartition(".")
    if part != "weight" or len(shape) < 2 or 0 in shape:
        return None
    kind: WeightKind
    if len(shape) == 2:
        kind = "embedding" if _TABLES.search(name.lower()) else "linear"
    elif len(shape) == 3 and "conv" not in name.lower():
        return None  # stacked experts and the like, not filters
    else:
        kind = "conv"
    if kind == "linear" and is_transposed(name, model_type):
        shape = shape[::-1]
    return Layer(name, type_of(name, kind), kind, shape)


def is_transposed(name: str, model_type: str) -> bool:
    """Whether a linear layer of a checkpoint is stored as ``[K, N]``."""
    return model_type in TRANSPOSED_MODEL_TYPES and _TRANSPOSED.search(name) is not None
