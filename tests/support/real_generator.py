"""A bundle with a real, small decoder of random weights and a tokenizer of bytes."""

from __future__ import annotations

from pathlib import Path

from deepseek_engine.prepare.generators.tokenizers import byte_tokenizer

from tests.support.bundles import BundleParts, write_raw

VOCABULARY = 300


def write_llama(folder: Path, *, name: str = "llama", seed: int = 0) -> Path:
    """Two layers, a context of 256, one fp32 variant for torch."""
    import torch
    import transformers

    checkpoint = folder.parent / f"{folder.name}-checkpoint"
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(checkpoint)
    names = ("config.json", "generation_config.json", "model.safetensors")
    files = {name: (checkpoint / name).read_bytes() for name in names}
    parts = BundleParts(
        task="generate",
        model_type="LLM",
        inputs=[("text", "BYTES", (1,)), ("input_ids", "INT64", (1, -1))],
        outputs=[("text", "BYTES", (1,)), ("token_ids", "INT64", (1, -1))],
        files={"tokenizer.json": byte_tokenizer(VOCABULARY)},
        variant={"backend": "torch", "graph": "config.json"},
        random_weights=True,
    )
    return write_raw(folder, b"unused", parts, name=name, extra=files)
