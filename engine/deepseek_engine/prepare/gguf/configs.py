"""The metadata of a GGUF file as ``config.json`` and ``generation_config.json`` of the hub.

Why it exists: what computes and what quantizes reads the hub's fields. Some of them stand nowhere
in a GGUF file and follow from the architecture; each of those is named here with where it is from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from deepseek_api.errors import SourceError

from deepseek_engine.prepare.gguf.names import architecture_of
from deepseek_engine.prepare.gguf.reading import GgufFile

__all__ = ["generation_config", "hub_config"]

GEMMA3_PATTERN: Final = 6
"""Every sixth layer of Gemma 3 sees everything, the others a window (its technical report)."""
GEMMA3_LOCAL_THETA: Final = 10_000.0
"""Base of the rotation in layers with a window (the same report)."""
GEMMA3_27B_LAYERS: Final = 62
"""The one size whose scores are scaled by hidden size over heads and not by the size of a head."""
LLAMA3_ROPE: Final = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3_ORIGINAL_LENGTH: Final = 8192
"""Constants of Llama 3.1 and 3.2 (their published configurations); files only hold what follows."""


def hub_config(file: GgufFile) -> dict[str, Any]:
    """The content of ``config.json``.

    Raises:
        SourceError: a field is missing, or the file describes something that cannot be computed.
    """
    architecture = architecture_of(file.metadata.get("general.architecture"))
    fields = _Fields(file)
    hidden, heads = fields.whole("embedding_length"), fields.whole("attention.head_count")
    head_dim = fields.whole("attention.key_length", hidden // heads)
    config: dict[str, Any] = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": fields.whole("feed_forward_length"),
        "num_hidden_layers": fields.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": fields.whole("context_length"),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": fields.number("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "torch_dtype": "float32",
    }
    if (scaling := _rope_scaling(file, fields, config)) is not None:
        config["rope_scaling"] = scaling
    if architecture.model_type == "gemma3_text":
        config |= _gemma3(fields, config)
    else:
        config["hidden_act"] = "silu"
    if architecture.model_type in {"llama", "qwen3"}:
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    return config | _special_tokens(file.metadata)


def generation_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``generation_config.json``: tokens that begin and end a text."""
    tokens = _special_tokens(metadata)
    ends = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    known = list(dict.fromkeys(end for end in ends if isinstance(end, int)))
    if len(known) > 1:
        tokens["eos_token_id"] = known
    return tokens


class _Fields:
    """Metadata of an architecture, each with the type that it must have."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self._prefix = file.metadata["general.architecture"]

    def get(self, key: str) -> Any:
        return self._file.metadata.get(f"{self._prefix}.{key}")

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _wrong(self._file, f"{self._prefix}.{key}", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise _wrong(self._file, f"{self._prefix}.{key}", value)
        # The file holds fp32; the shortest text of that is what its author wrote: 1e-06.
        return float(str(np.float32(value)))

    def _value(self, key: str, default: float | None) -> Any:
        value = self.get(key)
        return default if value is None else value


def _gemma3(fields: _Fields, config: Mapping[str, Any]) -> dict[str, Any]:
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    pattern = fields.get("attention.sliding_window_pattern")
    if not isinstance(pattern, list):
        every = pattern if isinstance(pattern, int) and pattern > 0 else GEMMA3_PATTERN
        pattern = [bool((layer + 1) % every) for layer in range(layers)]
    scaled_by_hidden = layers == GEMMA3_27B_LAYERS
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": (
            config["hidden_size"] // heads if scaled_by_hidden else config["head_dim"]
        ),
        "sliding_window": fields.whole("attention.sliding_window"),
        "layer_types": ["sliding_attention" if s else "full_attention" for s in pattern[:layers]],
        "rope_local_base_freq": fields.number("rope.freq_base_swa", GEMMA3_LOCAL_THETA),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": fields.get("final_logit_softcapping"),
    }


def _rope_scaling(
    file: GgufFile, fields: _Fields, config: Mapping[str, Any]
) -> dict[str, Any] | None:
    kind = fields.get("rope.scaling.type")
    if "rope_freqs.weight" in file.tensors:
        return _llama3_scaling(file, config)
    if kind in (None, "none"):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": fields.number("rope.scaling.factor")}
    if kind == "yarn":
        return {
            "rope_type": "yarn",
            "factor": fields.number("rope.scaling.factor"),
            "original_max_position_embeddings": fields.whole(
                "rope.scaling.original_context_length"
            ),
        }
    raise SourceError(
        f"The rotation of '{file.path.name}' is scaled by '{kind}', which cannot be computed.",
        hint="Use the model's safetensors.",
        reason="UnsupportedArchitecture",
    )


def _llama3_scaling(file: GgufFile, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of Llama 3.1 from the divisors of frequencies that follow from them."""
    given = file.read("rope_freqs.weight").flatten()
    found = {
        "rope_type": "llama3",
        "factor": float(given.max()),
        "original_max_position_embeddings": LLAMA3_ORIGINAL_LENGTH,
        **LLAMA3_ROPE,
    }
    if not torch.allclose(_divisors(found, config), given, rtol=1e-3):
        raise SourceError(
            f"The rotation of '{file.path.name}' is scaled in a way that is not that of Llama 3.1.",
            hint="Use the model's safetensors.",
            reason="UnsupportedArchitecture",
        )
    return found


def _divisors(scaling: Mapping[str, Any], config: Mapping[str, Any]) -> torch.Tensor:
    """What the frequencies of a head are divided by, ``[head_dim / 2]``; Llama 3.1's rule."""
    dim = config["head_dim"]
    frequency = config["rope_theta"] ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * torch.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    divisors: torch.Tensor = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    return divisors.float()


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, Any]:
    names = {"bos": "bos", "eos": "eos", "padding": "pad"}
    return {
        f"{hub}_token_id": metadata[f"tokenizer.ggml.{own}_token_id"]
        for own, hub in names.items()
        if f"tokenizer.ggml.{own}_token_id" in metadata
    }


def _wrong(file: GgufFile, key: str, value: object) -> SourceError:
    what = "does not say" if value is None else f"says {value!r} for"
    return SourceError(
        f"'{file.path.name}' {what} '{key}', which must be a number above 0.",
        hint="Fetch the file again, or convert the model again.",
        reason="InvalidConfig",
    )
