"""The architectures of the hub that the decoder computes, and what their fields mean.

Why it exists: the same property has other names, defaults and conditions in every family. Each
reader below turns the fields of one into those of `DecoderConfig` and refuses what would change
the result. Defaults are those of transformers 5.23, the reference of the tests. Imports no runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deepseek_api.errors import BundleError

from deepseek_engine.generation.config import Experts, Latent, Rope
from deepseek_engine.generation.fields import Fields, read_json

__all__ = ["FAMILIES", "read_fields"]

_ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip
_FULL, _SLIDING = "full_attention", "sliding_attention"


def read_fields(folder: Path) -> dict[str, Any]:
    """Arguments of `DecoderConfig` from a folder; `DecoderConfig.read` says what is raised."""
    values = read_json(folder / "config.json")
    name = str(values.get("model_type"))
    if name not in FAMILIES:
        raise BundleError(
            f"The model's architecture is '{name}', which cannot generate here.",
            hint=f"Known ones: {', '.join(FAMILIES)}.",
            reason="UnsupportedModel",
        )
    fields = Fields(values)
    found = {"architecture": name} | FAMILIES[name](fields)
    dtype = str(values.get("dtype") or values.get("torch_dtype") or "float32")
    found["dtype"] = dtype if dtype in ("float32", "float16", "bfloat16") else "float32"
    return found | {"end_tokens": _end_tokens(folder, values)}


def _end_tokens(folder: Path, config: Mapping[str, Any]) -> frozenset[int]:
    path = folder / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}
    for values in (generation, config):
        given = values.get("eos_token_id")
        tokens = given if isinstance(given, list) else [given]
        if given is not None:
            if not all(type(token) is int and token >= 0 for token in tokens):
                raise Fields(values).wrong("eos_token_id", "a token number or a list of them")
            return frozenset(tokens)
    return frozenset()


def _common(fields: Fields, *, head_dim: int = 0) -> dict[str, Any]:
    """What all families but GPT-2 have in common."""
    heads = fields.whole("num_attention_heads")
    width = fields.whole("hidden_size")
    if "head_dim" not in fields and not head_dim and width % heads:
        raise fields.wrong("hidden_size", f"a multiple of {heads} heads")
    size = fields.whole("head_dim", head_dim or width // heads)
    layers = fields.whole("num_hidden_layers")
    rope = _rope(fields)
    return {
        "vocabulary": fields.whole("vocab_size"),
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": fields.whole("num_key_value_heads", heads),
        "head_dim": size,
        "ffn": fields.whole("intermediate_size"),
        "context": fields.whole("max_position_embeddings"),
        "activation": _activation(fields, "hidden_act", "silu"),
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "tied": fields.flag("tie_word_embeddings", False),
        "attention_scale": size**-0.5,
        "windows": (0,) * layers,
        "rope": rope,
        "local_rope": rope,
    }


def _activation(fields: Fields, name: str, default: str) -> str:
    return _ACTIVATIONS[fields.one_of(name, tuple(_ACTIVATIONS), default)]


def _rope(fields: Fields) -> Rope:
    """Of a model whose layers all rotate alike; old and new names of the fields are read."""
    given = fields.object("rope_parameters") or fields.object("rope_scaling") or Fields({})
    return rope_from(given, fields, base=fields.number("rope_theta", 10_000.0))


def rope_from(given: Fields, model: Fields, *, base: float) -> Rope:
    """A rotation from its object.

    Args:
        given: the object.
        model: the whole configuration.
        base: used where the object has none.
    """
    name = "rope_type" if "rope_type" in given else "type"
    kind = given.one_of(name, ("default", "linear", "llama3", "yarn"), "default")
    for holder in (given, model):
        holder.only("partial_rotary_factor", 1, 1.0)
    base = given.number("rope_theta", base)
    if kind == "default":
        return Rope(base=base)
    context = model.whole("max_position_embeddings")
    original = given.whole("original_max_position_embeddings", context)
    if kind == "linear":
        return Rope(kind="linear", base=base, factor=given.number("factor"))
    if kind == "llama3":
        return Rope(
            kind="llama3",
            base=base,
            factor=given.number("factor"),
            original_context=original,
            low_frequency=given.number("low_freq_factor"),
            high_frequency=given.number("high_freq_factor"),
        )
    factor = given.number("factor", context / original)
    return Rope(
        kind="yarn",
        base=base,
        factor=factor,
        original_context=original,
        beta_fast=given.number("beta_fast", 32.0),
        beta_slow=given.number("beta_slow", 1.0),
        truncate=given.flag("truncate", True),
        amplitude=_amplitude(given, factor),
    )


def _amplitude(given: Fields, factor: float) -> float:
    if "attention_factor" in given:
        return given.number("attention_factor")
    above, below = given.raw("mscale"), given.raw("mscale_all_dim")
    if above and below:
        return magnitude(factor, given.number("mscale")) / magnitude(
            factor, given.number("mscale_all_dim")
        )
    return magnitude(factor, 1.0)


def magnitude(factor: float, weight: float) -> float:
    """YaRN's correction of the scores' size for a context that is ``factor`` times longer."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _windows(fields: Fields, layers: int, default: list[str]) -> tuple[int, ...]:
    kinds = fields.raw("layer_types") or default
    if not isinstance(kinds, list) or any(kind not in (_FULL, _SLIDING) for kind in kinds):
        raise fields.wrong("layer_types", f"a list of {_FULL} and {_SLIDING}")
    if _SLIDING not in kinds:
        return (0,) * len(kinds)
    window = fields.whole("sliding_window")
    return tuple(window if kind == _SLIDING else 0 for kind in kinds)


def _llama(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    fields.only("layer_types", [_FULL] * fields.whole("num_hidden_layers"))
    return _common(fields) | {
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": fields.flag("mlp_bias", False),
    }


def _mistral(fields: Fields) -> dict[str, Any]:
    found = _common(fields)
    # Null means that every layer sees everything; absent, that the class's default holds.
    window = 0 if fields.null("sliding_window") else fields.whole("sliding_window", 4096)
    fields.only("layer_types", [_SLIDING if window else _FULL] * found["layers"])
    return found | {"windows": (window,) * found["layers"]}


def _qwen(fields: Fields, *, head_dim: int = 0) -> dict[str, Any]:
    found = _common(fields, head_dim=head_dim)
    first = fields.whole("max_window_layers", 28, least=0)
    sliding = fields.flag("use_sliding_window", False) and "sliding_window" in fields
    kinds = [_SLIDING if sliding and i >= first else _FULL for i in range(found["layers"])]
    return found | {"windows": _windows(fields, found["layers"], kinds)}


def _qwen2(fields: Fields) -> dict[str, Any]:
    return _qwen(fields) | {"qkv_bias": True}


def _qwen3(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    own = {"qkv_bias": bias, "out_bias": bias, "head_norms": True}
    return _qwen(fields, head_dim=128) | own


def _gemma3(fields: Fields) -> dict[str, Any]:
    fields.only("use_bidirectional_attention", False)
    fields.only("attn_logit_softcapping")
    found = _common(fields, head_dim=256)
    every = fields.whole("sliding_window_pattern", 6)
    kinds = [_FULL if (i + 1) % every == 0 else _SLIDING for i in range(found["layers"])]
    bias = fields.flag("attention_bias", False)
    given = fields.object("rope_parameters") or Fields({})
    whole = given.object(_FULL) or fields.object("rope_scaling") or Fields({})
    local = given.object(_SLIDING) or Fields({})
    return found | {
        "activation": _activation(fields, "hidden_activation", "gelu_pytorch_tanh"),
        "norm": "rms_unit_offset",
        "head_norms": True,
        "sandwich": True,
        "qkv_bias": bias,
        "out_bias": bias,
        "tied": fields.flag("tie_word_embeddings", True),
        "embedding_scale": found["width"] ** 0.5,
        "attention_scale": fields.number("query_pre_attn_scalar", 256.0) ** -0.5,
        "windows": _windows(fields, found["layers"], kinds),
        "rope": rope_from(whole, fields, base=fields.number("rope_theta", 1e6)),
        "local_rope": rope_from(local, fields, base=fields.number("rope_local_base_freq", 1e4)),
        "score_cap": fields.number("final_logit_softcapping", math.inf)
        if "final_logit_softcapping" in fields
        else 0.0,
    }


def _gpt2(fields: Fields) -> dict[str, Any]:
    fields.only("scale_attn_weights", True)
    fields.only("scale_attn_by_inverse_layer_idx", False)
    fields.only("add_cross_attention", False)
    width, heads, layers = fields.whole("n_embd"), fields.whole("n_head"), fields.whole("n_layer")
    if width % heads:
        raise fields.wrong("n_embd", f"a multiple of {heads} heads")
    return {
        "vocabulary": fields.whole("vocab_size"),
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": width // heads,
        "ffn": fields.whole("n_inner", 4 * width),
        "context": fields.whole("n_positions"),
        "activation": _activation(fields, "activation_function", "gelu_new"),
        "gated": False,
        "norm": "layer",
        "norm_eps": fields.number("layer_norm_epsilon", 1e-5),
        "tied": fields.flag("tie_word_embeddings", True),
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "learned_positions": True,
        "attention_scale": (width // heads) ** -0.5,
        "windows": (0,) * layers,
        "rope": None,
        "local_rope": None,
    }


def _deepseek_v3(fields: Fields) -> dict[str, Any]:
    for name, *allowed in (
        ("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1),
        ("attention_bias", False), ("head_dim", fields.raw("qk_rope_head_dim")),
    ):  # fmt: skip
        fields.only(name, *allowed)
    latent = Latent(
        query_rank=0 if fields.null("q_lora_rank") else fields.whole("q_lora_rank"),
        rank=fields.whole("kv_lora_rank"),
        rope_dim=fields.whole("qk_rope_head_dim"),
        plain_dim=fields.whole("qk_nope_head_dim"),
        value_dim=fields.whole("v_head_dim"),
    )
    size = latent.plain_dim + latent.rope_dim
    found = _common(fields, head_dim=latent.rope_dim)
    given = fields.object("rope_parameters") or fields.object("rope_scaling") or Fields({})
    rope: Rope = found["rope"]
    scale = size**-0.5
    if rope.kind != "default" and given.raw("mscale_all_dim"):
        scale *= magnitude(rope.factor, given.number("mscale_all_dim")) ** 2
    turned = {name: getattr(rope, name) for name in Rope.__dataclass_fields__}
    turned["interleaved"] = fields.flag("rope_interleave", True)
    return found | {
        "head_dim": size,
        "kv_heads": found["heads"],
        "attention_scale": scale,
        "rope": Rope(**turned),
        "local_rope": None,
        "latent": latent,
        "experts": Experts(
            count=fields.whole("n_routed_experts"),
            chosen=fields.whole("num_experts_per_tok"),
            groups=fields.whole("n_group"),
            chosen_groups=fields.whole("topk_group"),
            shared=fields.whole("n_shared_experts", 0, least=0),
            ffn=fields.whole("moe_intermediate_size"),
            scale=fields.number("routed_scaling_factor", 1.0),
            normalized=fields.flag("norm_topk_prob", True),
            first=fields.whole("first_k_dense_replace", 0, least=0),
        ),
    }


FAMILIES: Mapping[str, Callable[[Fields], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "deepseek_v3": _deepseek_v3,
}
"""Readers by the hub's ``model_type``."""
