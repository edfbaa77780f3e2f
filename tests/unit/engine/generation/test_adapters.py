"""LoRA adapters as peft saves them: what tokens that use one compute, and what is refused.

The oracle is the model with the adapter merged into its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_api.errors import BundleError, DeepseekError, SourceError
from deepseek_engine.generation.parallel.context import SINGLE, ParallelContext
from deepseek_engine.generation.weights import load_decoder
from safetensors.torch import save_file

from tests.support.checkpoints import llama_tensors, write_checkpoint
from tests.support.decoders import Driver, prompt
from tests.support.ranks import on_ranks

RANK, ALPHA = 4, 10
TOKENS = prompt(18, vocabulary=96)
ALL = tuple(
    f"model.layers.{layer}.{name}"
    for layer in range(2)
    for name in (
        "self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
        "mlp.down_proj",
    )
)  # fmt: skip
Pairs = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return llama_tensors(torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor]) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("llama"), tensors)


def draw(tensors: Mapping[str, torch.Tensor], layers: tuple[str, ...], seed: int) -> Pairs:
    draws = torch.Generator().manual_seed(seed)
    found = {}
    for layer in layers:
        outputs, inputs = tensors[f"{layer}.weight"].shape
        down = torch.randn(RANK, inputs, generator=draws) / inputs**0.5
        found[layer] = (down, torch.randn(outputs, RANK, generator=draws) / RANK**0.5)
    return found


def write_adapter(folder: Path, pairs: Pairs, **changes: Any) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    stored = {}
    for layer, (down, up) in pairs.items():
        stored[f"base_model.model.{layer}.lora_A.weight"] = down
        stored[f"base_model.model.{layer}.lora_B.weight"] = up
    save_file(stored, folder / "adapter_model.safetensors")
    return folder


def merged(
    folder: Path, tensors: Mapping[str, torch.Tensor], pairs: Pairs, factor: float = ALPHA / RANK
) -> Path:
    changed = dict(tensors)
    for layer, (down, up) in pairs.items():
        changed[f"{layer}.weight"] = tensors[f"{layer}.weight"] + factor * (up @ down)
    return write_checkpoint(folder, changed)


def scores(folder: Path) -> torch.Tensor:
    return Driver(load_decoder(folder)).step({"a": TOKENS}, rows="all")


@pytest.mark.parametrize(
    ("stabilized", "factor"),
    [pytest.param(False, ALPHA / RANK, id="lora"), pytest.param(True, ALPHA / 2, id="rslora")],
)
def test_a_sequence_with_an_adapter_computes_the_merged_model(
    tmp_path: Path,
    folder: Path,
    tensors: dict[str, torch.Tensor],
    stabilized: bool,
    factor: float,
) -> None:
    pairs = draw(tensors, ALL, 1)
    adapter = write_adapter(tmp_path / "x", pairs, use_rslora=stabilized)
    decoder = load_decoder(folder, adapters={"x": adapter})
    found = Driver(decoder).step({"a": TOKENS}, rows="all", adapters={"a": 0})
    wanted = scores(merged(tmp_path / "merged", tensors, pairs, factor))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_sequences_of_one_step_use_adapters_of_their_own(
    tmp_path: Path, folder: Path, tensors: dict[str, torch.Tensor]
) -> None:
    """Two adapters that change different layers, and a sequence without one."""
    drawn = {"x": draw(tensors, ALL[:3], 1), "y": draw(tensors, ALL[2:], 2)}
    saved = {name: write_adapter(tmp_path / name, pairs) for name, pairs in drawn.items()}
    driver = Driver(load_decoder(folder, adapters=saved))
    parts = {"a": TOKENS, "b": TOKENS[:11], "c": TOKENS[:5]}
    found = driver.step(parts, rows="all", adapters={"a": 1, "c": 0})
    alone = {
        name: scores(merged(tmp_path / f"{name} merged", tensors, pairs))
        for name, pairs in drawn.items()
    }
    wanted = torch.cat((alone["y"], scores(folder)[:11], alone["x"][:5]))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_without_a_choice_the_model_is_itself(
    tmp_path: Path, folder: Path, tensors: dict[str, torch.Tensor]
) -> None:
    adapter = write_adapter(tmp_path / "x", draw(tensors, ALL, 1))
    decoder = load_decoder(folder, adapters={"x": adapter})
    used = Driver(decoder).step({"a": TOKENS}, rows="all", adapters={"a": 0})
    plain = Driver(decoder).step({"a": TOKENS}, rows="all")
    assert torch.equal(plain, scores(folder))
    assert not torch.allclose(used, plain)


@pytest.mark.parametrize("name", ["query_key_value", "qkv_proj"])
def test_a_fused_layer_is_the_three_it_stands_for(
    tmp_path: Path, folder: Path, tensors: dict[str, torch.Tensor], name: str
) -> None:
    """Queries, keys and values share A; the rows of B are theirs, one after another."""
    parts = [f"model.layers.1.self_attn.{each}" for each in ("q_proj", "k_proj", "v_proj")]
    rows = [len(tensors[f"{part}.weight"]) for part in parts]
    draws = torch.Generator().manual_seed(4)
    down = torch.randn(RANK, 128, generator=draws) / 8
    up = torch.randn(sum(rows), RANK, generator=draws)
    adapter = write_adapter(tmp_path / "x", {f"model.layers.1.self_attn.{name}": (down, up)})
    decoder = load_decoder(folder, adapters={"x": adapter})
    found = Driver(decoder).step({"a": TOKENS}, rows="all", adapters={"a": 0})
    split = {part: (down, each) for part, each in zip(parts, torch.split(up, rows), strict=True)}
    wanted = scores(merged(tmp_path / "merged", tensors, split))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_layers_may_have_ranks_and_factors_of_their_own(
    tmp_path: Path, folder: Path, tensors: dict[str, torch.Tensor]
) -> None:
    layer = "model.layers.0.mlp.up_proj"
    down, up = torch.randn(2, 128) / 8, torch.randn(256, 2)
    adapter = write_adapter(
        tmp_path / "x", {layer: (down, up)}, rank_pattern={"up_proj": 2}, alpha_pattern={layer: 3}
    )
    decoder = load_decoder(folder, adapters={"x": adapter})
    found = Driver(decoder).step({"a": TOKENS}, rows="all", adapters={"a": 0})
    wanted = scores(merged(tmp_path / "merged", tensors, {layer: (down, up)}, 1.5))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_an_adapter_lies_beside_int8_weights(
    tmp_path: Path, folder: Path, tensors: dict[str, torch.Tensor]
) -> None:
    pairs = draw(tensors, ALL, 1)
    adapter = write_adapter(tmp_path / "x", pairs)
    decoder = load_decoder(folder, quantization="int8", adapters={"x": adapter})
    found = Driver(decoder).step({"a": TOKENS}, rows="all", adapters={"a": 0})
    wanted = scores(merged(tmp_path / "merged", tensors, pairs))
    assert (found - wanted).norm() < 0.1 * wanted.norm()
    assert (scores(folder) - wanted).norm() > 0.5 * wanted.norm()


def test_ranks_apply_their_parts_of_an_adapter(
    tmp_path: Path, folder: Path, tensors: dict[str, torch.Tensor]
) -> None:
    """Rows of B where a product is cut by columns, columns of A where it is cut by rows."""
    draws = torch.Generator().manual_seed(5)
    fused = (torch.randn(RANK, 128, generator=draws) / 8, torch.randn(256, RANK, generator=draws))
    pairs = {**draw(tensors, ALL[2:5], 1), "model.layers.1.self_attn.qkv_proj": fused}
    adapter = write_adapter(tmp_path / "x", pairs)

    def run(context: ParallelContext = SINGLE) -> torch.Tensor:
        decoder = load_decoder(folder, parallel=context, adapters={"x": adapter})
        return Driver(decoder).step({"a": TOKENS}, rows="all", adapters={"a": 0})

    wanted = run()
    for found in on_ranks(run, tensor=2):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


GOOD = (torch.zeros(RANK, 128), torch.zeros(128, RANK))
UP = "model.layers.0.self_attn.q_proj"
REFUSED: dict[str, tuple[Pairs, dict[str, Any], type[DeepseekError], str]] = {
    "another method": ({UP: GOOD}, {"peft_type": "IA3"}, BundleError, "peft_type"),
    "weights beside it": ({UP: GOOD}, {"modules_to_save": ["lm_head"]}, BundleError, "modules_to"),
    "its own biases": ({UP: GOOD}, {"bias": "all"}, BundleError, "bias"),
    "magnitudes": ({UP: GOOD}, {"use_dora": True}, BundleError, "use_dora"),
    "no rank": ({UP: GOOD}, {"r": None}, BundleError, "'adapter_config.json: r'"),
    "an unknown layer": ({"model.layers.9.mlp.up_proj": GOOD}, {}, SourceError, r"layers\.9"),
    "an embedding": ({"model.embed_tokens": GOOD}, {}, SourceError, "embed_tokens"),
    "another rank": ({UP: GOOD}, {"r": 8}, SourceError, "lora_A of"),
    "another width": ({UP: (GOOD[0], torch.zeros(64, RANK))}, {}, SourceError, "lora_B of"),
    "nothing in it": ({}, {}, BundleError, "'x' is empty"),
}


@pytest.mark.parametrize(
    ("pairs", "changes", "kind", "named"),
    [pytest.param(*case, id=name) for name, case in REFUSED.items()],
)
def test_what_is_not_applied_as_it_was_trained_is_refused(
    tmp_path: Path,
    folder: Path,
    pairs: Pairs,
    changes: dict[str, Any],
    kind: type[DeepseekError],
    named: str,
) -> None:
    adapter = write_adapter(tmp_path / "x", pairs, **changes)
    with pytest.raises(kind, match=named):
        load_decoder(folder, adapters={"x": adapter})


def test_an_adapter_that_was_not_loaded_cannot_be_chosen(
    tmp_path: Path, folder: Path, tensors: dict[str, torch.Tensor]
) -> None:
    adapter = write_adapter(tmp_path / "x", draw(tensors, ALL, 1))
    driver = Driver(load_decoder(folder, adapters={"x": adapter}))
    with pytest.raises(ValueError, match="1 are loaded"):
        driver.step({"a": TOKENS}, adapters={"a": 1})
