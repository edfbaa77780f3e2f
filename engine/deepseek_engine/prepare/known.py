"""What is known of architectures by name, before any library is imported.

Why it exists: which family a model belongs to, and so what it can do, is decided from a name or a
``config.json`` alone; the command line asks too. It must not import torch.
"""

from __future__ import annotations

from typing import Any, Final, Literal

__all__ = [
    "KNOWN_CONFIGS",
    "TASKS",
    "UNET3D",
    "Family",
    "family_of",
    "library_of",
]

Family = Literal["encoder", "decoder", "vision", "vision-transformer", "volume"]
"""Models that are exported, judged and quantized in the same way."""

UNET3D: Final = "3d-unet"
"""The one architecture of this project's own library, ``deepseek/3d-unet``."""

TASKS: dict[Family, str] = {
    "encoder": "text-embedding",
    "decoder": "tensors",
    "vision": "image-classification",
    "vision-transformer": "image-classification",
    "volume": "segmentation",
}
"""What the models of each family do."""

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
}  # fmt: skip

_TRANSFORMERS: dict[str, Family] = {"bert": "encoder", "t5": "encoder", "gpt2": "decoder"}


def family_of(library: str, name: str) -> Family:
    """The family of an architecture: ``name`` is a known name or transformers' ``model_type``.

    An unknown name gets its library's usual family, whose loader then says what it knows.
    """
    if library == "deepseek":
        return "volume"
    if library == "transformers":
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
