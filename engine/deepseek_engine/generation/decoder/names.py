"""What the tensors of each family are called on the hub.

Why it exists: layers ask for tensors by what they are for; only this table knows names. Nothing
here decides what a layer computes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Names", "names_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names of a family; those of a layer stand behind ``layer``."""

    prefixes: tuple[str, ...] = ("model.",)
    """What may stand before all names but the head's; some are saved without the head's model."""
    embedding: str = "embed_tokens"
    positions: str = ""
    final_norm: str = "norm"
    head: str = "lm_head"
    """Without any prefix."""
    layer: str = "layers.{}."
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """Products whose rows are queries, keys and values, in this order."""
    fused_qkv: tuple[str, ...] = ("self_attn.qkv_proj", "self_attn.query_key_value")
    """What adapters may call the three together; the first decides how ranks divide it."""
    out: str = "self_attn.o_proj"
    head_norms: tuple[str, str] = ("self_attn.q_norm", "self_attn.k_norm")
    mlp: str = "mlp."
    up: tuple[str, ...] = ("gate_proj", "up_proj")
    """Behind ``mlp``, as the next."""
    down: str = "down_proj"
    before_attention: str = "input_layernorm"
    after_attention: str = ""
    before_mlp: str = "post_attention_layernorm"
    after_mlp: str = ""
    transposed: bool = False
    """Whether weights of products are stored as inputs by outputs."""
    predicts_ahead: bool = False
    """Whether a layer may follow that guesses a token more, which is not used."""
    ignored: tuple[str, ...] = ("*.rotary_emb.inv_freq",)
    """Patterns of tensors that say nothing new."""


_HUB = Names()
_NAMES = {
    "gemma3_text": replace(
        _HUB,
        after_attention="post_attention_layernorm",
        before_mlp="pre_feedforward_layernorm",
        after_mlp="post_feedforward_layernorm",
    ),
    "deepseek_v3": replace(_HUB, predicts_ahead=True),
    "gpt2": Names(
        prefixes=("transformer.", ""),
        embedding="wte",
        positions="wpe",
        final_norm="ln_f",
        layer="h.{}.",
        qkv=("attn.c_attn",),
        fused_qkv=(),
        out="attn.c_proj",
        up=("c_fc",),
        down="c_proj",
        before_attention="ln_1",
        before_mlp="ln_2",
        transposed=True,
        ignored=("*.attn.bias", "*.attn.masked_bias"),
    ),
}


def names_of(architecture: str) -> Names:
    """The names of a family that `deepseek_engine.generation.families` reads."""
    return _NAMES.get(architecture, _HUB)
