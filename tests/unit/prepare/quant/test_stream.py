"""A checkpoint into a quantized one: what is written, what is refused, and that nothing is left."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from deepseek_api.errors import ConfigurationError, DeepseekError, PrecisionError, SourceError
from deepseek_engine.prepare.quant import stream
from deepseek_engine.prepare.quant.policy import Policy, Rule, for_precision, mixed, uniform
from deepseek_engine.prepare.quant.rounding import quantize_weight
from deepseek_engine.prepare.quant.stream import quantize_checkpoint
from deepseek_engine.quant.checkpoint import Checkpoint
from deepseek_engine.quant.schemes import SCHEMES
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import LLAMA, llama_tensors, write_checkpoint

UNIFORM = [name for name, scheme in SCHEMES.items() if scheme.quantized]
Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", llama_tensors())


@pytest.mark.parametrize("name", UNIFORM)
def test_every_scheme_is_written_and_read_back_as_it_was_rounded(
    name: str, source: Path, tmp_path: Path
) -> None:
    quantize_checkpoint(source, tmp_path / "small", uniform(name))
    weight = quantize_weight(llama_tensors()[f"{Q_PROJ}.weight"], SCHEMES[name])
    with Checkpoint(tmp_path / "small") as small:
        layers = small.quantized_layers()
        assert layers[Q_PROJ] is SCHEMES[name]
        found = small.read_weight(Q_PROJ, SCHEMES[name])
    assert len(layers) == 14
    assert torch.equal(found.dequantize(torch.float32), weight.dequantize(torch.float32))


@pytest.mark.parametrize("name", UNIFORM)
def test_pieces_of_rows_give_the_same_file_as_whole_tensors(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_checkpoint(source, tmp_path / "whole", uniform(name))
    monkeypatch.setattr(stream, "CHUNK", 1)
    quantize_checkpoint(source, tmp_path / "pieces", uniform(name))
    first, second = (
        (tmp_path / folder / "model.safetensors").read_bytes() for folder in ("whole", "pieces")
    )
    assert first == second


def test_what_is_not_quantized_is_kept_to_the_bit(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "small", uniform("int8"))
    found, before = load_file(tmp_path / "small" / "model.safetensors"), llama_tensors()
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(found[name], before[name])
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["quantization_config"]["ignore"] == ["lm_head"]
    assert config["hidden_size"] == LLAMA["hidden_size"]


def test_mixed_is_several_groups_in_one_checkpoint(source: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(source, tmp_path / "small", mixed())
    found = load_file(tmp_path / "small" / "model.safetensors")
    assert found[f"{Q_PROJ}.weight"].dtype == torch.float16
    assert found["model.layers.0.mlp.up_proj.weight_packed"].dtype == torch.int32
    assert found["model.embed_tokens.weight_packed"].dtype == torch.int32
    assert found["lm_head.weight"].dtype == torch.bfloat16
    by_type = {layer.type: layer.scheme for layer in report.layers}
    assert by_type == {"attention": "fp16", "ffn": "int8", "embedding": "int8", "head": "bf16"}


def test_shards_stay_shards_and_their_index_is_complete(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", llama_tensors(), shards=3)
    quantize_checkpoint(source, tmp_path / "small", uniform("int4-g128"))
    index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
    held = {
        name: file.name
        for file in (tmp_path / "small").glob("*.safetensors")
        for name in load_file(file)
    }
    assert index["weight_map"] == held
    assert len(set(held.values())) == 3
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes
        for file in (tmp_path / "small").glob("*.safetensors")
        for tensor in load_file(file).values()
    )


def test_the_report_counts_the_bytes_of_the_file(source: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(source, tmp_path / "small", for_precision("int4"))
    found = load_file(tmp_path / "small" / "model.safetensors")
    assert report.bytes_after == sum(tensor.nbytes for tensor in found.values())
    assert report.bytes_before == sum(tensor.nbytes for tensor in llama_tensors().values())
    assert report.parameters == sum(tensor.numel() for tensor in llama_tensors().values())
    written = json.loads((tmp_path / "small" / "quantization-report.json").read_text())
    assert written["bytes_after"] == report.bytes_after


def test_the_report_says_how_far_off_each_weight_is(source: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(source, tmp_path / "small", uniform("int4-g128"))
    weight = llama_tensors()[f"{Q_PROJ}.weight"].float()
    rounded = quantize_weight(weight, SCHEMES["int4-g128"]).dequantize(torch.float32)
    found = next(layer for layer in report.layers if layer.name == Q_PROJ)
    expected = float((rounded - weight).norm() / weight.norm())
    assert found.weight_error == pytest.approx(expected, rel=1e-4)
    head = next(layer for layer in report.layers if layer.name == "lm_head")
    assert (head.scheme, head.weight_error) == ("keep", None)


def test_gpt2_is_turned_so_that_rows_are_output_features(tmp_path: Path) -> None:
    weight = torch.randn(128, 384, generator=torch.Generator().manual_seed(0))
    tensors = {"h.0.attn.c_attn.weight": weight, "h.0.attn.c_attn.bias": torch.zeros(384)}
    source = write_checkpoint(tmp_path / "source", tensors, config={"model_type": "gpt2"})
    quantize_checkpoint(source, tmp_path / "small", uniform("int4-g128"))
    with Checkpoint(tmp_path / "small") as small:
        found = small.read_weight("h.0.attn.c_attn", SCHEMES["int4-g128"])
    assert found.shape == (384, 128)
    assert (found.dequantize(torch.float32) - weight.t()).norm() < 0.12 * weight.norm()


def test_a_single_file_is_enough(tmp_path: Path) -> None:
    save_file(llama_tensors(), tmp_path / "weights.safetensors")
    quantize_checkpoint(tmp_path / "weights.safetensors", tmp_path / "small", uniform("int8"))
    names = {path.name for path in (tmp_path / "small").iterdir()}
    assert names == {"config.json", "model.safetensors", "quantization-report.json"}


def test_tokenizer_and_settings_come_along_and_other_weights_do_not(
    source: Path, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "generation_config.json", "pytorch_model.bin", ".hidden"):
        (source / name).write_text("{}")
    quantize_checkpoint(source, tmp_path / "small", uniform("int8"))
    names = {path.name for path in (tmp_path / "small").iterdir()}
    assert {"tokenizer.json", "generation_config.json"} <= names
    assert names.isdisjoint({"pytorch_model.bin", ".hidden"})


def test_progress_is_told_tensor_by_tensor(source: Path, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    quantize_checkpoint(
        source, tmp_path / "small", uniform("int8"), on_progress=lambda *event: said.append(event)
    )
    total = sum(tensor.nbytes for tensor in llama_tensors().values())
    assert [name for name, _, _ in said] == [*sorted(llama_tensors()), ""]
    assert [done for _, done, _ in said] == sorted(done for _, done, _ in said)
    assert said[-1] == ("", total, total)


def broken(tensors: dict[str, torch.Tensor], name: str, value: float) -> dict[str, torch.Tensor]:
    tensors[name] = tensors[name].clone()
    tensors[name][3, 5] = value
    return tensors


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(value: float, tmp_path: Path) -> None:
    tensors = broken(llama_tensors(), f"{Q_PROJ}.weight", value)
    source = write_checkpoint(tmp_path / "source", tensors)
    with pytest.raises(SourceError, match=f"'{Q_PROJ}' holds NaN or infinity") as caught:
        quantize_checkpoint(source, tmp_path / "small", uniform("int8"))
    assert caught.value.reason == "WeightsNotFinite"


def test_numbers_beyond_fp16_are_refused_rather_than_made_infinite(tmp_path: Path) -> None:
    tensors = broken(llama_tensors(), f"{Q_PROJ}.weight", 1e5)
    source = write_checkpoint(tmp_path / "source", tensors)
    with pytest.raises(PrecisionError, match=r"q_proj\.weight' holds numbers that float16 cannot"):
        quantize_checkpoint(source, tmp_path / "small", mixed())


def failing(policy: Policy, source: Path, target: Path) -> DeepseekError:
    with pytest.raises(DeepseekError) as caught:
        quantize_checkpoint(source, target, policy)
    return caught.value


def test_a_named_layer_that_cannot_have_its_scheme_is_an_error(tmp_path: Path) -> None:
    tensors = {"a.mlp.fc1.weight": torch.randn(64, 200)}
    source = write_checkpoint(tmp_path / "source", tensors)
    policy = uniform("int8").with_rules(Rule("int4-g64", names="a.mlp.fc1"))
    error = failing(policy, source, tmp_path / "small")
    assert (type(error), error.reason) == (PrecisionError, "SchemeDoesNotFit")
    assert "a.mlp.fc1" in error.message


def test_a_rule_that_matches_nothing_is_an_error(source: Path, tmp_path: Path) -> None:
    policy = uniform("int8").with_rules(Rule("bf16", names="*.q_porj"))
    error = failing(policy, source, tmp_path / "small")
    assert (type(error), error.reason) == (ConfigurationError, "RuleMatchesNothing")
    assert "*.q_porj" in error.message


def test_a_quantized_checkpoint_is_not_quantized_again(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "once", uniform("int8"))
    error = failing(uniform("int8"), tmp_path / "once", tmp_path / "twice")
    assert error.reason == "AlreadyQuantized"


def test_nothing_is_overwritten_and_nothing_is_left_behind(source: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not an empty folder" in failing(uniform("int8"), source, tmp_path / "full").message
    write_checkpoint(source, broken(llama_tensors(), "lm_head.weight", float("nan")))
    failing(for_precision("int8"), source, tmp_path / "small")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "source"]


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1000))
    error = failing(uniform("int8"), source, tmp_path / "small")
    assert error.reason == "DiskFull"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
