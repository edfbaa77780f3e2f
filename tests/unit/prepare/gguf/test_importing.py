"""GGUF files become folders of the hub: the same numbers under the hub's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepseek_api.errors import SourceError
from deepseek_engine.prepare.gguf import importing
from deepseek_engine.prepare.gguf.importing import import_gguf
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.gguf_files import ARCHITECTURES, GgufBuilder, module_of


def build(architecture: str, **fields: Any) -> GgufBuilder:
    return GgufBuilder(module_of(architecture), architecture, **fields)


def imported(builder: GgufBuilder, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Tensors of the folder that a file becomes."""
    target = folder / "made"
    target.mkdir()
    import_gguf(builder.write(folder / "x.gguf"), target, **options)
    return load_file(target / "model.safetensors")


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "made" / "config.json").read_bytes())
    return found


def state_of(module: Any) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = module.state_dict()
    if module.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_becomes_the_model_that_it_was_made_of(architecture: str, tmp_path: Path) -> None:
    builder = build(architecture)
    tensors = imported(builder, tmp_path)
    expected = state_of(builder.module)
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        # The norms of Gemma lose a bit where 1 is added and taken away again.
        torch.testing.assert_close(tensors[name], value, rtol=0, atol=1.2e-7, msg=name)
    tokens = torch.arange(4, 40).unsqueeze(0)
    kind: Any = AutoModelForCausalLM
    loaded = kind.from_pretrained(tmp_path / "made", dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(tokens).logits, builder.module(tokens).logits)


@pytest.mark.parametrize("pieces", [1, 7, 1 << 22], ids=lambda count: f"{count} numbers at a time")
def test_quantized_numbers_become_exactly_what_they_stand_for(
    pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "CHUNK", pieces)
    builder = build("qwen2", kind=GGMLQuantizationType.Q8_0)
    tensors = imported(builder, tmp_path)
    raw, kind = builder.encoded()["blk.1.ffn_up.weight"]
    expected = torch.from_numpy(np.array(dequantize(raw, kind)))
    torch.testing.assert_close(
        tensors["model.layers.1.mlp.up_proj.weight"], expected, rtol=0, atol=0
    )


def test_rows_are_turned_back_whatever_the_size_of_a_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "CHUNK", 1)
    builder = build("llama")
    tensors = imported(builder, tmp_path)
    name = "model.layers.1.self_attn.k_proj.weight"
    torch.testing.assert_close(tensors[name], state_of(builder.module)[name], rtol=0, atol=0)


TYPES = {
    "fp32 stays": (GGMLQuantizationType.F32, torch.float32, torch.float32),
    "fp16 stays": (GGMLQuantizationType.F16, torch.float32, torch.float16),
    "bf16 stays": (GGMLQuantizationType.BF16, torch.float32, torch.bfloat16),
    "quantized to fp32": (GGMLQuantizationType.Q4_0, torch.float32, torch.float32),
    "quantized to bf16": (GGMLQuantizationType.Q4_0, torch.bfloat16, torch.bfloat16),
}


@pytest.mark.parametrize("case", TYPES)
def test_a_matrix_is_stored_in_the_type_that_holds_it(case: str, tmp_path: Path) -> None:
    kind, dequantized, expected = TYPES[case]
    tensors = imported(build("qwen2", kind=kind), tmp_path, dequantized=dequantized)
    assert tensors["model.layers.0.mlp.down_proj.weight"].dtype is expected
    assert tensors["model.norm.weight"].dtype is torch.float32


def test_progress_ends_with_everything(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    imported(build("qwen3"), tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert seen == sorted(seen)


def divisors(factor: float, head_dim: int = 16) -> np.ndarray[Any, Any]:
    """What llama.cpp's converter writes for Llama 3.1, number by number."""
    found = []
    for index in range(0, head_dim, 2):
        frequency = 1 / 5e5 ** (index / head_dim)
        wavelength = 2 * np.pi / frequency
        if wavelength < 8192 / 4:
            found.append(1.0)
        elif wavelength > 8192 / 1:
            found.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


SCALINGS: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "none": ({}, {}, None),
    "linear": (
        {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        {},
        {"rope_type": "linear", "factor": 8.0},
    ),
    "yarn": (
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
         "rope.scaling.original_context_length": 32},
        {},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ),
    "that of Llama 3.1": (
        {},
        {"rope_freqs.weight": divisors(8.0)},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SCALINGS)
def test_the_scaling_of_the_rotation_is_found(case: str, tmp_path: Path) -> None:
    metadata, tensors, expected = SCALINGS[case]
    imported(build("llama", metadata=metadata, tensors=tensors), tmp_path)
    assert config_of(tmp_path).get("rope_scaling") == expected


def test_the_fields_that_a_file_does_not_hold_follow_from_the_architecture(tmp_path: Path) -> None:
    imported(build("gemma3"), tmp_path)
    found = config_of(tmp_path)
    assert found["layer_types"] == ["sliding_attention"] * 5 + ["full_attention"] + [
        "sliding_attention"
    ]
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (1e6, 1e4)
    assert (found["query_pre_attn_scalar"], found["rms_norm_eps"]) == (32, 1e-6)
    assert found["tie_word_embeddings"] is True


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a rotation that nobody knows": (
        {"metadata": {"rope.scaling.type": "spiral"}}, "UnsupportedArchitecture", "'spiral'",
    ),
    "divisors that are not Llama's": (
        {"tensors": {"rope_freqs.weight": np.linspace(1, 3, 8, dtype=np.float32)}},
        "UnsupportedArchitecture", "Llama 3.1",
    ),
    "experts": (
        {"tensors": {"blk.0.ffn_gate_inp.weight": np.ones((4, 64), np.float32)}},
        "UnsupportedArchitecture", "blk.0.ffn_gate_inp.weight",
    ),
    "fewer layers than it says": ({"metadata": {"block_count": 3}}, "TensorMissing", "blk.2"),
    "no embeddings": ({"left_out": ["token_embd.weight"]}, "TensorMissing", "token_embd.weight"),
    "no size of layers": (
        {"metadata": {"feed_forward_length": None}}, "InvalidConfig", "feed_forward_length",
    ),
    "a text for a number": (
        {"metadata": {"attention.head_count": "four"}}, "InvalidConfig", "head_count",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_named(case: str, tmp_path: Path) -> None:
    fields, reason, words = REFUSED[case]
    with pytest.raises(SourceError) as caught:
        imported(build("llama", **fields), tmp_path)
    assert caught.value.reason == reason
    assert words in caught.value.message
