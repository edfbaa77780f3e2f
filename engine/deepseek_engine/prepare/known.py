"""What is known of architectures by name, before any library is imported.

Why it exists: which family a model belongs to, and so what it can do, is decided from a name or a
``config.json`` alone; the command line asks too. It must not import torch.
"""

from __future__ import annotations

from typing import Any, Final, Literal

__all__ = [
    "GENERATORS",
    "KNOWN_CONFIGS",
    "TASKS",
    "UNET3D",
    "Family",
    "family_of",
    "library_of",
]

Family = Literal["encoder", "decoder", "generator", "vision", "vision-transformer", "volume"]
"""Models that are prepared in the same way. A ``decoder`` scores tokens that are given; a
``generator`` makes new ones."""

UNET3D: Final = "3d-unet"
"""The one architecture of this project's own library, ``deepseek/3d-unet``."""

GENERATE: Final = "generate"
"""The task of models that make text, token by token."""

TASKS: dict[Family, str] = {
    "encoder": "text-embedding",
    "decoder": "tensors",
    "generator": GENERATE,
    "vision": "image-classification",
    "vision-transformer": "image-classification",
    "volume": "segmentation",
}
"""What the models of each family do."""

_SMALL_TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SMALL: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
    "tie_word_embeddings": False, **_SMALL_TOKENS,
}  # fmt: skip

# The dimensions of published models, so that random weights need no download. Values left out are
# the defaults of transformers: BERT base, T5 small, GPT-2 with 124 M weights.
KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "bert-base-uncased": {"model_type": "bert"},
    "bert-large-uncased": {
        "model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096,
    },
    "all-MiniLM-L6-v2": {
        "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6,
        "num_attention_heads": 12, "intermediate_size": 1536,
    },
    "t5-small": {"model_type": "t5"},
    "t5-base": {
        "model_type": "t5", "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12,
    },
    "flan-t5-small": {
        "model_type": "t5", "d_ff": 1024, "num_layers": 8, "num_heads": 6,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    },
    "gpt2": {"model_type": "gpt2"},
    "gemma3-270m": {
        "model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 640,
        "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 32768,
        "sliding_window": 512,
    },
    # Not published models: a few layers of each architecture that generates, for trying things out.
    "llama-tiny": {"model_type": "llama", **_SMALL},
    "mistral-tiny": {"model_type": "mistral", **_SMALL, "sliding_window": 16},
    "qwen2-tiny": {"model_type": "qwen2", **_SMALL, "tie_word_embeddings": True},
    "qwen3-tiny": {"model_type": "qwen3", **_SMALL, "head_dim": 32},
    "gemma3-tiny": {
        "model_type": "gemma3_text", **_SMALL, "head_dim": 32, "query_pre_attn_scalar": 32,
        "num_hidden_layers": 6, "sliding_window": 16, "tie_word_embeddings": True,
    },
    "gpt2-tiny": {
        "model_type": "gpt2", "vocab_size": 512, "n_positions": 1024, "n_embd": 64, "n_layer": 2,
        "n_head": 4, **_SMALL_TOKENS,
    },
    "deepseek-v3-tiny": {
        "model_type": "deepseek_v3", **_SMALL, "num_key_value_heads": 4, "num_hidden_layers": 3,
        "first_k_dense_replace": 1, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "moe_intermediate_size": 64,
    },
}  # fmt: skip

_TRANSFORMERS: dict[str, Family] = {
    "bert": "encoder", "t5": "encoder", "gpt2": "decoder", "llama": "generator",
    "mistral": "generator", "qwen2": "generator", "qwen3": "generator",
    "gemma3_text": "generator", "deepseek_v3": "generator",
}  # fmt: skip
"""Values of transformers' ``model_type`` and what such models usually do."""
GENERATORS = frozenset({"gpt2", *(name for name, f in _TRANSFORMERS.items() if f == "generator")})
"""Values of ``model_type`` that can be prepared to generate."""


def family_of(library: str, name: str, task: str = "") -> Family:
    """The family of an architecture.

    An unknown name gets its library's usual family, whose loader then says what it knows.

    Args:
        library: ``transformers``, ``timm`` or ``deepseek``.
        name: a known name, or transformers' ``model_type``.
        task: what is wanted of it, if that was said; some architectures can do two things.
    """
    if library == "deepseek":
        return "volume"
    if library == "transformers":
        if task == GENERATE:
            return "generator"
        config = KNOWN_CONFIGS.get(name, {"model_type": name})
        return _TRANSFORMERS.get(config["model_type"], "encoder")
    return "vision"


def library_of(name: str) -> str:
    """The library of a name given without one, as in ``random://resnet50``; empty without one."""
    if not name:
        return ""
    if name == UNET3D:
        return "deepseek"
    lowered = name.lower()
    if name in KNOWN_CONFIGS or name in _TRANSFORMERS or "bert" in lowered or "minilm" in lowered:
        return "transformers"
    return "timm"
