"""Small checkpoints with the names of published models, as files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128,
    "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}  # fmt: skip


def llama_tensors(dtype: torch.dtype = torch.bfloat16, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Seeded random weights of `LLAMA`."""
    random = torch.Generator().manual_seed(seed)
    hidden, inner, words = 128, 256, 96

    def matrix(rows: int, columns: int) -> torch.Tensor:
        values = torch.randn(rows, columns, generator=random) / math.sqrt(columns)
        return values.to(dtype)

    found = {"model.embed_tokens.weight": matrix(words, hidden)}
    for number in range(2):
        layer = f"model.layers.{number}"
        found |= {
            f"{layer}.self_attn.q_proj.weight": matrix(hidden, hidden),
            f"{layer}.self_attn.k_proj.weight": matrix(64, hidden),
            f"{layer}.self_attn.v_proj.weight": matrix(64, hidden),
            f"{layer}.self_attn.o_proj.weight": matrix(hidden, hidden),
            f"{layer}.mlp.gate_proj.weight": matrix(inner, hidden),
            f"{layer}.mlp.up_proj.weight": matrix(inner, hidden),
            f"{layer}.mlp.down_proj.weight": matrix(hidden, inner),
            f"{layer}.input_layernorm.weight": torch.ones(hidden, dtype=dtype),
            f"{layer}.post_attention_layernorm.weight": torch.ones(hidden, dtype=dtype),
        }
    return found | {
        "model.norm.weight": torch.ones(hidden, dtype=dtype),
        "lm_head.weight": matrix(words, hidden),
    }


def write_checkpoint(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    *,
    config: dict[str, Any] | None = None,
    shards: int = 1,
) -> Path:
    """Write tensors into one file, or into several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA if config is None else config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = list(tensors)
    where: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
