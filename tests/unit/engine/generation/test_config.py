"""Reading a hub's configuration: what is computed, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from deepseek_api.errors import BundleError
from deepseek_engine.generation.config import DecoderConfig, Rope

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "hidden_act": "silu", "eos_token_id": 7,
}  # fmt: skip
GEMMA = {
    **LLAMA, "model_type": "gemma3_text", "head_dim": 12, "sliding_window": 512,
    "hidden_activation": "gelu_pytorch_tanh", "num_hidden_layers": 7,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "vocab_size": 97, "n_embd": 36, "n_head": 3, "n_layer": 2,
    "n_positions": 64,
}  # fmt: skip
DEEPSEEK = {
    **LLAMA, "model_type": "deepseek_v3", "num_key_value_heads": 6, "q_lora_rank": None,
    "kv_lora_rank": 16, "qk_rope_head_dim": 6, "qk_nope_head_dim": 10, "v_head_dim": 12,
    "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
    "moe_intermediate_size": 20,
}  # fmt: skip


def read(folder: Path, fields: dict[str, Any]) -> DecoderConfig:
    (folder / "config.json").write_text(json.dumps(fields))
    return DecoderConfig.read(folder)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown architecture": ({**LLAMA, "model_type": "mamba"}, "'mamba'"),
    "a size that is missing": ({**LLAMA, "hidden_size": None}, "'hidden_size' is missing"),
    "a size of another type": ({**LLAMA, "vocab_size": "97"}, "'vocab_size' is \"97\""),
    "a number of layers that is none": ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers"),
    "true for a number": ({**LLAMA, "intermediate_size": True}, "intermediate_size"),
    "heads that do not share keys": ({**LLAMA, "num_key_value_heads": 4}, "num_key_value_heads"),
    "a width that heads do not divide": ({**LLAMA, "hidden_size": 50}, "hidden_size"),
    "a head that cannot be rotated": ({**LLAMA, "head_dim": 7}, "head_dim"),
    "unknown activation": ({**LLAMA, "hidden_act": "xielu"}, "hidden_act"),
    "unknown rope": (
        {**LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        "rope_scaling.rope_type",
    ),
    "rope without its factor": (
        {**LLAMA, "rope_parameters": {"rope_type": "linear"}},
        "rope_parameters.factor",
    ),
    "rotation of a part of a head": ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary"),
    "windows in a family without": (
        {**LLAMA, "layer_types": ["sliding_attention", "full_attention"]},
        "layer_types",
    ),
    "unknown layers": ({**GEMMA, "layer_types": ["linear_attention"] * 7}, "layer_types"),
    "too few layer types": ({**GEMMA, "layer_types": ["full_attention"]}, "layer_types"),
    "attention in both directions": (
        {**GEMMA, "use_bidirectional_attention": True},
        "use_bidirectional_attention",
    ),
    "capped attention": ({**GEMMA, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "cross attention": ({**GPT2, "add_cross_attention": True}, "add_cross_attention"),
    "scores by layer": ({**GPT2, "scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx"),
    "another router": ({**DEEPSEEK, "scoring_func": "softmax"}, "scoring_func"),
    "more experts than groups have": ({**DEEPSEEK, "num_experts_per_tok": 5}, "experts_per_tok"),
    "groups that do not divide": ({**DEEPSEEK, "n_group": 3}, "n_group"),
    "end tokens that are none": ({**LLAMA, "eos_token_id": ["</s>"]}, "eos_token_id"),
}


@pytest.mark.parametrize(
    ("fields", "named"), [pytest.param(*case, id=name) for name, case in REFUSED.items()]
)
def test_what_would_change_the_result_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(BundleError) as error:
        read(tmp_path, fields)
    assert error.value.reason == "UnsupportedModel"
    assert named in error.value.message


@pytest.mark.parametrize("content", [None, "{", "[]"], ids=["missing", "no JSON", "no object"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(BundleError, match=r"config\.json") as error:
        DecoderConfig.read(tmp_path)
    assert error.value.reason == "InvalidConfig"


def test_old_and_new_names_of_a_rotation_mean_the_same(tmp_path: Path) -> None:
    scaling = {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    old = read(
        tmp_path, {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **scaling}}
    )
    new = read(
        tmp_path,
        {**LLAMA, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaling}},
    )
    assert old == new
    assert old.rope == Rope(
        kind="llama3", base=5e5, factor=8.0, original_context=64, low_frequency=1.0,
        high_frequency=4.0,
    )  # fmt: skip


def test_gemma_alternates_windows_and_rotations_as_old_files_say_it(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        {**GEMMA, "sliding_window_pattern": 3, "rope_theta": 1e6, "rope_local_base_freq": 1e4},
    )
    assert config.windows == (512, 512, 0, 512, 512, 0, 512)
    assert [config.rope_of(i) for i in (0, 2)] == [Rope(base=1e4), Rope(base=1e6)]
    assert config.tied


def test_mistral_has_a_window_unless_it_is_null(tmp_path: Path) -> None:
    mistral = {**LLAMA, "model_type": "mistral"}
    assert read(tmp_path, mistral).windows == (4096, 4096)
    assert read(tmp_path, {**mistral, "sliding_window": None}).windows == (0, 0)


def test_end_tokens_are_those_of_generation_if_it_has_any(tmp_path: Path) -> None:
    assert read(tmp_path, LLAMA).end_tokens == {7}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 106]}')
    assert read(tmp_path, LLAMA).end_tokens == {1, 106}


def test_the_cache_of_latent_attention_holds_one_small_head(tmp_path: Path) -> None:
    config = read(tmp_path, DEEPSEEK)
    assert (config.cached_heads, config.cached_dims) == (1, (6, 16))
    plain = read(tmp_path, LLAMA)
    assert (plain.cached_heads, plain.cached_dims) == (2, (8, 8))
