"""Small GGUF files, written by the package of the format from modules of transformers.

Names of tensors come from that package's own tables, and rows are turned as llama.cpp turns them,
so that nothing here knows what the importer under test knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, TokenType, get_tensor_name_map
from gguf.quants import quantize
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 64
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[MODEL_ARCH, dict[str, Any]]] = {
    "llama": (MODEL_ARCH.LLAMA, {"model_type": "llama", "rope_theta": 5e5}),
    "qwen2": (MODEL_ARCH.QWEN2, {"model_type": "qwen2", "tie_word_embeddings": True}),
    "qwen3": (MODEL_ARCH.QWEN3, {"model_type": "qwen3", "head_dim": 32}),
    "gemma3": (
        MODEL_ARCH.GEMMA3,
        {"model_type": "gemma3_text", "head_dim": 32, "query_pre_attn_scalar": 32,
         "num_hidden_layers": 7, "sliding_window": 8, "rope_theta": 1e6},
    ),
}  # fmt: skip


def module_of(architecture: str, *, seed: int = 0) -> Any:
    """A module of transformers whose norms and biases are not the ones and zeros of its start."""
    own = SHAPE | ARCHITECTURES[architecture][1]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(own.pop("model_type"), **own)
    kind: Any = AutoModelForCausalLM
    module = kind.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.ndim == 1:
                value.add_(torch.randn_like(value) * 0.2)
            elif "embed" not in name:
                value.mul_(4)
    return module


@dataclass
class GgufBuilder:
    """What goes into a file; tests change it before it is written."""

    module: Any
    architecture: str
    kind: GGMLQuantizationType = GGMLQuantizationType.F32
    """Of matrices; vectors are fp32."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Whole numbers, floats and texts that are added or exchanged; None leaves out."""
    tensors: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """Tensors that are added, fp32."""
    left_out: Sequence[str] = ()

    def write(self, path: Path) -> Path:
        """Write the file."""
        writer = GGUFWriter(path, self.architecture)
        for key, value in (self._fields() | self.metadata).items():
            own = not key.startswith(("tokenizer.", "general."))
            _add(writer, f"{self.architecture}.{key}" if own else key, value)
        tokens = [f"t{number}" for number in range(VOCABULARY)]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["<pad>", "<s>", "</s>", "<unk>", *tokens[4:]])
        writer.add_token_scores([-float(number) for number in range(VOCABULARY)])
        writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.UNKNOWN]
                               + [TokenType.NORMAL] * (VOCABULARY - 4))  # fmt: skip
        for name, value in self.encoded().items():
            writer.add_tensor(name, value[0], raw_dtype=value[1])
        for name, array in self.tensors.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def encoded(self) -> dict[str, tuple[np.ndarray[Any, Any], GGMLQuantizationType]]:
        """Tensors as they are stored, by the format's names."""
        config = self.module.config
        names = get_tensor_name_map(ARCHITECTURES[self.architecture][0], config.num_hidden_layers)
        tied = config.tie_word_embeddings
        found = {}
        for hub, value in self.module.state_dict().items():
            name = names.get_name(hub, try_suffixes=(".weight", ".bias"))
            assert name is not None
            if (tied and hub == "lm_head.weight") or name in self.left_out:
                continue
            array = value.numpy()
            if self.architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
                heads = len(array) // config.head_dim
                array = array.reshape(heads, 2, config.head_dim // 2, -1)
                array = array.swapaxes(1, 2).reshape(value.shape)
            if self.architecture == "gemma3" and name.endswith("norm.weight"):
                array = array + np.float32(1)
            kind = self.kind if array.ndim > 1 else GGMLQuantizationType.F32
            found[name] = (quantize(array, kind), kind)
        return found

    def _fields(self) -> dict[str, Any]:
        config = self.module.config
        rope = config.rope_parameters
        theta = rope.get("full_attention", rope)["rope_theta"]
        fields = {
            "context_length": config.max_position_embeddings,
            "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers,
            "feed_forward_length": config.intermediate_size,
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
            "rope.freq_base": float(theta),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.padding_token_id": 0,
            "tokenizer.ggml.unknown_token_id": 3,
        }
        if self.architecture in {"qwen3", "gemma3"}:
            fields["attention.key_length"] = config.head_dim
        if self.architecture == "gemma3":
            fields["attention.sliding_window"] = config.sliding_window
        return fields


def write_metadata(path: Path, metadata: Mapping[str, Any], architecture: str = "llama") -> Path:
    """A file of metadata alone, such as a tokenizer; lists are of one kind."""
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)
