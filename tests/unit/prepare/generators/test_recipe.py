"""Models that generate become bundles of plain and quantized checkpoints in the hub's naming."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_api.catalog import builtin_catalog
from deepseek_api.errors import DeepseekError
from deepseek_api.manifest import Manifest, choose_variant, parse_manifest
from deepseek_api.vocabulary import BackendName, InstructionSet, Precision
from deepseek_engine.bundles import open_bundle
from deepseek_engine.generation.weights import load_decoder
from deepseek_engine.prepare.architectures import make_plan
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.generators.tokenizers import byte_tokenizer
from deepseek_engine.prepare.known import GENERATORS, KNOWN_CONFIGS
from deepseek_engine.prepare.messages import PrepareRequest
from deepseek_engine.prepare.recipe import build_bundle
from deepseek_engine.prepare.sources import open_source
from deepseek_engine.quant.checkpoint import Checkpoint
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from tests.support.gguf_files import GgufBuilder, module_of

TINY = sorted(name for name in KNOWN_CONFIGS if name.endswith("-tiny"))


def prepare(folder: Path, uri: str, **fields: Any) -> tuple[Path, Manifest]:
    """A bundle and its manifest."""
    folder.mkdir()
    request = PrepareRequest(name="m", uri=uri, **fields)
    build_bundle(request, folder, Reporter(io.BytesIO()))
    return folder, parse_manifest((folder / "manifest.json").read_bytes())


def refusal(folder: Path, uri: str, **fields: Any) -> DeepseekError:
    with pytest.raises(DeepseekError) as caught:
        prepare(folder / "b", uri, **fields)
    assert not list(folder.glob("b-*")), "work was left behind"
    return caught.value


def hub_folder(folder: Path, *, shards: int = 1, **config: Any) -> Path:
    """A small Qwen 2 as a hub has it."""
    module = module_of("qwen2")
    size = "60KB" if shards > 1 else "5GB"
    module.save_pretrained(folder, max_shard_size=size)
    fields = json.loads((folder / "config.json").read_bytes()) | {"vocab_size": 64} | config
    (folder / "config.json").write_text(json.dumps(fields))
    tokenizer = json.loads(byte_tokenizer(259))
    tokenizer["model"]["vocab"] = {
        piece: number for piece, number in tokenizer["model"]["vocab"].items() if number < 64
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    return folder


@pytest.mark.parametrize("name", TINY)
def test_every_architecture_has_a_small_one_with_random_weights(name: str, tmp_path: Path) -> None:
    folder, manifest = prepare(tmp_path / "b", f"random://{name}?seed=3", task="generate")
    assert (manifest.task, manifest.model_type, manifest.random_weights) == (
        "generate",
        "LLM",
        True,
    )
    assert [variant.id for variant in manifest.variants] == ["fp32", "int8"]
    bundle = open_bundle(folder)
    for variant in manifest.variants:
        assert (variant.backend, variant.graph) == (BackendName.TORCH, f"{variant.id}/config.json")
        bundle.verify(variant)
        assert load_decoder(folder / variant.id).limits.context == 1024
    kind: Any = AutoModelForCausalLM
    loaded = kind.from_pretrained(folder / "fp32", dtype=torch.float32)
    assert bool(torch.isfinite(loaded(torch.tensor([[1, 5, 9]])).logits).all())
    with Checkpoint(folder / "int8") as checkpoint:
        layers = checkpoint.quantized_layers()
    tables = {"model.embed_tokens", "lm_head", "transformer.wte"}
    assert tables & layers.keys()
    assert any("mlp" in layer for layer in layers)
    assert not any(layer.endswith("mlp.gate") for layer in layers), (
        "routers choose in full precision"
    )


def test_every_architecture_that_generates_is_among_them() -> None:
    assert {KNOWN_CONFIGS[name]["model_type"] for name in TINY} == GENERATORS


def test_the_seed_decides_about_random_weights(tmp_path: Path) -> None:
    _, first = prepare(tmp_path / "a", "random://llama-tiny?seed=1")
    _, again = prepare(tmp_path / "b", "random://llama-tiny?seed=1")
    _, other = prepare(tmp_path / "c", "random://llama-tiny?seed=2")
    assert first.variants == again.variants
    assert first.variants != other.variants


def test_texts_of_a_model_with_random_weights_come_back_whole(tmp_path: Path) -> None:
    folder, _ = prepare(tmp_path / "b", "random://llama-tiny")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "Ünïcode 🎉\n\ttabs  and <bos>"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert max(ids) < 512


@pytest.mark.parametrize(
    ("task", "family"), [("", "decoder"), ("tensors", "decoder"), ("generate", "generator")]
)
def test_gpt2_scores_given_tokens_unless_it_is_asked_to_generate(task: str, family: str) -> None:
    request = PrepareRequest(name="m", uri="random://gpt2-tiny", task=task)
    plan = make_plan(request, open_source(request, Reporter(io.BytesIO())))
    assert plan.family == family


@pytest.mark.parametrize("shards", [1, 2], ids=["one file", "an index of files"])
def test_a_folder_of_the_hub_keeps_its_numbers(shards: int, tmp_path: Path) -> None:
    source = hub_folder(tmp_path / "hub", shards=shards)
    assert (source / "model.safetensors.index.json").exists() == (shards > 1)
    folder, manifest = prepare(tmp_path / "b", source.as_uri())
    expected = module_of("qwen2").state_dict()
    with Checkpoint(folder / "fp32") as checkpoint:
        for name in checkpoint.names:
            assert torch.equal(checkpoint.read(name), expected[name]), name
    assert {file.path for file in manifest.files} == {"tokenizer.json", "tokenizer_config.json"}
    assert (folder / "fp32/generation_config.json").is_file()
    assert not (folder / "fp32/tokenizer.json").exists()
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert getattr(manifest.preprocessing, "max_length", 0) == 128


def test_a_gguf_file_is_imported_once_for_each_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_CACHE", str(tmp_path / "cache"))
    builder = GgufBuilder(module_of("llama"), "llama", kind=GGMLQuantizationType.Q8_0)
    uri = builder.write(tmp_path / "x.gguf").as_uri()
    folder, manifest = prepare(tmp_path / "b", uri)
    assert (manifest.architecture, manifest.source.uri) == ("transformers/llama", "file://x.gguf")
    (made,) = (path for path in (tmp_path / "cache/imports").iterdir() if path.is_dir())
    before = (made / "model.safetensors").stat().st_mtime_ns
    again, _ = prepare(tmp_path / "c", uri)
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    first, second = (load_file(f / "fp32/model.safetensors") for f in (folder, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("t5").tokens[0] == "<s>"
    prepare(tmp_path / "d", uri, device="cuda", precisions=("bf16",))
    kinds = sorted(
        p.name.split("-")[1] for p in (tmp_path / "cache/imports").iterdir() if p.is_dir()
    )
    assert kinds == ["bf16", "fp32"]


PRECISIONS: dict[str, tuple[str, tuple[str, ...], list[str], str]] = {
    "auto on a processor": ("cpu", ("auto",), ["fp32", "int8"], "fp32"),
    "one precision alone": ("cpu", ("int8",), ["int8"], "int8"),
    "two on a processor": ("cpu", ("mixed", "fp32"), ["fp32", "mixed"], "fp32"),
    "auto on a GPU": ("cuda", ("auto",), ["bf16-cuda", "int8-cuda"], "bf16-cuda"),
    "16 bits on a GPU": ("cuda", ("fp16",), ["fp16-cuda"], "fp16-cuda"),
}


@pytest.mark.parametrize("case", PRECISIONS)
def test_what_is_made_follows_from_precision_and_device(case: str, tmp_path: Path) -> None:
    device, precisions, made, auto = PRECISIONS[case]
    uri = "random://qwen2-tiny"
    _, manifest = prepare(tmp_path / "b", uri, device=device, precisions=precisions)
    assert [variant.id for variant in manifest.variants] == made
    sets = (InstructionSet.CUDA,) if device == "cuda" else (InstructionSet.AVX512_VNNI,)
    assert choose_variant(manifest, Precision.AUTO, sets).id == auto
    for precision in precisions:
        assert choose_variant(manifest, Precision(precision), sets).id in made


def test_norms_biases_and_inputs_of_attention_stay_as_they_are_beside_int8(tmp_path: Path) -> None:
    folder, _ = prepare(tmp_path / "b", hub_folder(tmp_path / "hub").as_uri(), precisions=("int8",))
    expected = module_of("qwen2").state_dict()
    with Checkpoint(folder / "int8") as checkpoint:
        assert "model.layers.0.self_attn.o_proj" in checkpoint.quantized_layers()
        layer = "model.layers.0.self_attn"
        for name in ("model.norm.weight", f"{layer}.q_proj.bias", f"{layer}.v_proj.weight"):
            assert torch.equal(checkpoint.read(name), expected[name])


def test_terms_of_a_license_are_shown_and_travel_with_the_bundle(tmp_path: Path) -> None:
    entry = builtin_catalog().get("gemma3-270m")
    assert entry.terms is not None
    fields = entry.to_wire() | {"architecture": "transformers/qwen2"}
    source = hub_folder(tmp_path / "hub").as_uri()
    events, folder = io.BytesIO(), tmp_path / "b"
    folder.mkdir()
    request = PrepareRequest(name="m", uri=source, precisions=("int8",), entry=fields)
    build_bundle(request, folder, Reporter(events))
    assert entry.terms in events.getvalue().decode()
    assert entry.terms in (folder / "NOTICE").read_text()
    assert "NOTICE" in {file.path for file in open_bundle(folder).manifest.files}


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "an encoder": ({"model_type": "bert"}, {"task": "generate"}, "UnsupportedArchitecture", "bert"),
    "quantized already": (
        {"quantization_config": {"bits": 4}}, {}, "AlreadyQuantized", "quantized already",
    ),
    "another model's tokenizer": ({"vocab_size": 8}, {}, "TokenizerDoesNotFit", "before 8"),
    "no length": ({"max_position_embeddings": None}, {}, "InvalidConfig", "how long"),
    "16 bits on a processor": ({}, {"precisions": ("bf16",)}, "PrecisionUnavailable", "'bf16'"),
    "another task": ({}, {"task": "text-embedding"}, "UnsupportedTask", "'generate'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_prepared_is_named(case: str, tmp_path: Path) -> None:
    config, fields, reason, words = REFUSED[case]
    error = refusal(tmp_path, hub_folder(tmp_path / "hub", **config).as_uri(), **fields)
    assert error.reason == reason
    assert words in error.message


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    source = hub_folder(tmp_path / "hub")
    (source / "tokenizer.json").unlink()
    assert refusal(tmp_path, source.as_uri()).reason == "TokenizerMissing"


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    source = hub_folder(tmp_path / "hub")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, source / "model.safetensors")
    error = refusal(tmp_path, source.as_uri(), precisions=("int8",))
    assert "model.layers.0.mlp.up_proj" in error.message
