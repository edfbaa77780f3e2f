"""A tiny model of each family: weights as safetensors beside their config, and its reference.

Every model has seeded weights of a size at which attention, norms and activations matter. The
reference is the published class (transformers, timm) or, for the 3D-UNet, the module that the tests
of `deepseek_engine.models` hold against monai.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY = 300
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {
        "model_type": "bert", "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64,
    },
    "t5": {
        "model_type": "t5", "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64,
        "num_layers": 2, "num_heads": 3, "feed_forward_proj": "gated-gelu",
    },
    "gpt2": {
        "model_type": "gpt2", "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4,
        "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0,
    },
    "resnet": {
        "architecture": "resnet18", "num_classes": 7,
        "model_args": {"layers": [1, 1, 1, 1], "channels": [16, 24, 32, 40]},
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    },
    "vit": {
        "architecture": "vit_tiny_patch16_224", "num_classes": 7,
        "model_args": {
            "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4,
        },
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    },
    "unet3d": {
        "model_type": "3d-unet", "channels": [4, 8], "classes": 3,
        "preprocessing": {"low": -1000, "high": 1000, "std": 500},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """A model on disk and in memory."""

    folder: Path
    """``config.json``, ``model.safetensors`` and, for texts, ``tokenizer.json``."""
    reference: Any
    """The module that the weights were taken from, in eval mode."""


def write_tiny(name: str, folder: Path) -> Tiny:
    """Write the tiny model of a family."""
    import torch
    from deepseek_engine.prepare.architectures.tokenizers import character_tokenizer
    from safetensors.torch import save_model

    torch.manual_seed(0)
    config = CONFIGS[name]
    reference = _BUILD[name](config).eval()
    with torch.no_grad():
        for key, value in reference.named_parameters():
            if value.ndim > 1:
                value.mul_(2.0)
            elif key.endswith("bias"):
                value.add_(torch.linspace(-0.2, 0.2, len(value)))
        for key, value in reference.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_model(reference, str(folder / "model.safetensors"))
    if name in ("bert", "t5"):
        (folder / "tokenizer.json").write_bytes(character_tokenizer(VOCABULARY, 64))
    return Tiny(folder, reference)


def _transformers(config: dict[str, Any]) -> Any:
    import transformers

    kinds = {"bert": "BertModel", "t5": "T5EncoderModel", "gpt2": "GPT2LMHeadModel"}
    arguments = {"add_pooling_layer": False} if config["model_type"] == "bert" else {}
    fields = transformers.AutoConfig.for_model(**config)
    return getattr(transformers, kinds[config["model_type"]])(fields, **arguments)


def _timm(config: dict[str, Any]) -> Any:
    import timm

    return timm.create_model(
        config["architecture"], num_classes=config["num_classes"], **config["model_args"]
    )


def _unet3d(config: dict[str, Any]) -> Any:
    from deepseek_engine.models.unet3d import UNet3d, UNet3dConfig

    return UNet3d(UNet3dConfig.from_fields(config))


_BUILD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "bert": _transformers, "t5": _transformers, "gpt2": _transformers, "resnet": _timm,
    "vit": _timm, "unet3d": _unet3d,
}  # fmt: skip
