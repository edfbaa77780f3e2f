"""What a GGUF file calls a tensor, and what the hub calls it.

Why it exists: the two formats name the same weights differently and store some of them in another
form: llama.cpp turns rows of queries and keys of Llama for its own rotation, and writes the norm
weights of Gemma with the 1 added that the model adds itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from deepseek_api.errors import ErrorCode, SourceError

__all__ = ["ARCHITECTURES", "IGNORED", "Architecture", "architecture_of"]

_WHOLE: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_BLOCK: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS: Final = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
# Gemma has a norm before and after each half of a block.
_GEMMA3_BLOCK: Final = {
    **_BLOCK,
    **_HEAD_NORMS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
IGNORED: Final = frozenset({"rope_freqs.weight"})
"""Tensors that are no weights: they follow from the configuration."""
_IN_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_OUTSIDE = re.compile(r"(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Architecture:
    """How the weights of one kind of model become those of the hub."""

    model_type: str
    """Of ``config.json``."""
    class_name: str
    """Of transformers, for ``config.json``."""
    block: Mapping[str, str]
    """Names inside a block, without ``.weight`` and ``.bias``."""
    turned: frozenset[str] = frozenset()
    """Names whose rows llama.cpp has turned for its own rotation."""
    added: float = 0.0
    """What was added to the weights of norms."""

    def hub_name(self, name: str) -> str:
        """The hub's name of a tensor.

        Raises:
            SourceError: this architecture has no such tensor here.
        """
        if (found := _IN_BLOCK.fullmatch(name)) and found[2] in self.block:
            return f"model.layers.{int(found[1])}.{self.block[found[2]]}.{found[3]}"
        if (found := _OUTSIDE.fullmatch(name)) and found[1] in _WHOLE:
            return f"{_WHOLE[found[1]]}.{found[2]}"
        raise SourceError(
            f"The tensor '{name}' of the GGUF file is none that a model of the type "
            f"'{self.model_type}' has here.",
            hint="Mixtures of experts and adapters in this format cannot be read; use safetensors.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="UnsupportedArchitecture",
        )

    def converter(self, name: str, head_dim: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """What turns rows of a tensor into the hub's; given whole heads of ``head_dim`` rows."""
        found = _IN_BLOCK.fullmatch(name)
        if found and found[2] in self.turned:
            return lambda rows: turned_back(rows, head_dim)
        if self.added and name.endswith("norm.weight"):
            return lambda rows: rows - self.added
        return lambda rows: rows


def turned_back(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows in the order of the hub: the first halves of all pairs of a head, then the second ones.

    Args:
        rows: ``[heads x head_dim, columns]`` with the two numbers of a pair as neighbours.
        head_dim: rows of a head.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])
    return pairs.transpose(1, 2).reshape(rows.shape)


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    # Mistral's files say llama too: they differ in nothing that either format writes.
    "llama": Architecture(
        "llama", "LlamaForCausalLM", _BLOCK, turned=frozenset({"attn_q", "attn_k"})
    ),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", _BLOCK),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", _BLOCK | _HEAD_NORMS),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", _GEMMA3_BLOCK, added=1.0),
}
"""By ``general.architecture``."""


def architecture_of(name: object) -> Architecture:
    """The architecture of a file.

    Raises:
        SourceError: it cannot be read.
    """
    if isinstance(name, str) and name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise SourceError(
        f"GGUF files of the architecture '{name}' cannot be read.",
        hint=f"Those that can: {', '.join(ARCHITECTURES)}; others need safetensors.",
        code=ErrorCode.UNIMPLEMENTED,
        reason="UnsupportedArchitecture",
    )
