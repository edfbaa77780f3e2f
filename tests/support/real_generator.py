"""A bundle with a real, small decoder of random weights and a tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path

from deepseek_engine.prepare.generators.tokenizers import byte_tokenizer

from tests.support.bundles import BundleParts, write_raw

VOCABULARY = 300
_CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY,
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "hidden_act": "silu",
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def write_llama(folder: Path, *, name: str = "llama", seed: int = 0) -> Path:
    """Two layers, a context of 256, one fp32 variant for torch."""
    parts = BundleParts(
        task="generate",
        model_type="LLM",
        inputs=[("text", "BYTES", (1,)), ("input_ids", "INT64", (1, -1))],
        outputs=[("text", "BYTES", (1,)), ("token_ids", "INT64", (1, -1))],
        files={"tokenizer.json": byte_tokenizer(VOCABULARY)},
        variant={"backend": "torch", "graph": "config.json"},
        random_weights=True,
    )
    files = {"config.json": json.dumps(_CONFIG).encode(), "model.safetensors": _weights(seed)}
    return write_raw(folder, b"unused", parts, name=name, extra=files)


def _weights(seed: int) -> bytes:
    import torch
    from safetensors.torch import save

    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).mul(shape[-1] ** -0.5)

    width, inner, keys = 32, 48, 16
    tensors = {
        "model.embed_tokens.weight": random(VOCABULARY, width),
        "model.norm.weight": torch.ones(width),
        "lm_head.weight": random(VOCABULARY, width),
    }
    for layer in range(2):
        shapes = {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (keys, width),
            "self_attn.v_proj": (keys, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }
        made = {part: random(*shape) for part, shape in shapes.items()}
        made |= {
            part: torch.ones(width) for part in ("input_layernorm", "post_attention_layernorm")
        }
        tensors |= {f"model.layers.{layer}.{part}.weight": t for part, t in made.items()}
    content: bytes = save(tensors)
    return content
