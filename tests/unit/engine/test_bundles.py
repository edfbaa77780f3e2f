"""Nothing of a bundle is used before every byte is known to be right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deepseek_api.errors import BundleError, PrecisionError
from deepseek_engine.bundles import open_bundle
from deepseek_engine.loading import select_variant

from tests.support import bundles
from tests.support.engine import model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bundles.write_embedding(tmp_path / "embed")


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def replace_by_link(path: Path) -> None:
    target = path.with_suffix(".elsewhere")
    path.rename(target)
    path.symlink_to(target)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_whole_bundle_opens(folder: Path) -> None:
    bundle = open_bundle(folder, bundles.digest_of(folder))
    parts: list[float] = []
    bundle.verify(bundle.manifest.variants[0], progress=parts.append)
    assert parts[-1] == 1.0
    assert parts == sorted(parts)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
@pytest.mark.parametrize(
    ("damage", "reason", "text"),
    [
        pytest.param(Path.unlink, "MissingFile", "is missing", id="missing"),
        pytest.param(
            lambda p: os.truncate(p, p.stat().st_size - 1), "TruncatedFile", "bytes", id="truncated"
        ),
        pytest.param(lambda p: os.truncate(p, 0), "TruncatedFile", "has 0 bytes", id="empty"),
        pytest.param(
            lambda p: p.write_bytes(p.read_bytes() + b"x"), "SizeMismatch", "bytes", id="longer"
        ),
        pytest.param(flip_a_byte, "DigestMismatch", "has changed", id="changed"),
        pytest.param(replace_by_link, "UnsafePath", "symbolic link", id="link"),
        pytest.param(replace_by_folder, "UnsafePath", "not a plain file", id="folder"),
    ],
)
def test_a_damaged_file_is_named_with_its_reason(
    folder: Path, name: str, damage: Callable[[Path], object], reason: str, text: str
) -> None:
    damage(folder / name)
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match=text) as caught:
        bundle.verify(bundle.manifest.variants[0])
    assert caught.value.reason == reason
    assert f"'{name}'" in caught.value.message
    assert caught.value.hint
    assert str(folder) not in str(caught.value)


def test_a_link_in_the_middle_of_a_path_is_refused(tmp_path: Path) -> None:
    folder = bundles.write_echo(tmp_path / "echo")
    (tmp_path / "outside").mkdir()
    (folder / "model.onnx").rename(tmp_path / "outside" / "model.onnx")
    (folder / "inner").symlink_to(tmp_path / "outside")

    def edit(manifest: dict[str, Any]) -> None:
        variant = manifest["variants"][0]
        variant["graph"] = variant["files"][0]["path"] = "inner/model.onnx"

    change(folder, edit)
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match="symbolic link") as caught:
        bundle.verify(bundle.manifest.variants[0])
    assert caught.value.reason == "UnsafePath"


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        pytest.param(lambda m: m.update(schemaVersion=99), "format version 99", id="schema"),
        pytest.param(lambda m: m.pop("task"), "task", id="field missing"),
        pytest.param(lambda m: m.update(surprise=1), "surprise", id="field unknown"),
        pytest.param(
            lambda m: m["variants"][0]["files"][0].update(path="../model.onnx"),
            "path",
            id="path leaves the bundle",
        ),
        pytest.param(
            lambda m: m["variants"][0]["files"][0].update(path="/etc/passwd"),
            "path",
            id="absolute path",
        ),
    ],
)
def test_a_wrong_manifest_is_refused(
    folder: Path, edit: Callable[[dict[str, Any]], None], text: str
) -> None:
    change(folder, edit)
    with pytest.raises(BundleError, match=text):
        open_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_not_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError):
        open_bundle(folder)


def test_a_manifest_behind_a_link_is_refused(folder: Path) -> None:
    replace_by_link(folder / "manifest.json")
    with pytest.raises(BundleError, match="not a plain file"):
        open_bundle(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle") as caught:
        open_bundle(tmp_path)
    assert caught.value.reason == "MissingBundle"
    assert str(tmp_path) not in str(caught.value)


def test_another_digest_than_asked_for_is_refused(folder: Path) -> None:
    wanted = "sha256:" + "0" * 64
    with pytest.raises(BundleError, match=wanted) as caught:
        open_bundle(folder, wanted)
    assert caught.value.reason == "DigestMismatch"


def test_files_of_other_variants_are_not_needed(folder: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        other = json.loads(json.dumps(manifest["variants"][0]))
        other["id"], other["graph"] = "int8", "int8.onnx"
        other["precision"] = "int8"
        other["files"][0] |= {"path": "int8.onnx"}
        manifest["variants"].append(other)

    change(folder, edit)
    bundle = open_bundle(folder)
    bundle.verify(bundle.manifest.variant("fp32"))
    with pytest.raises(BundleError, match=r"'int8\.onnx' is missing"):
        bundle.verify(bundle.manifest.variant("int8"))


@pytest.mark.parametrize(
    ("precision", "text"),
    [
        pytest.param("int4", "auto, fp32", id="not in the bundle: names what there is"),
        pytest.param("int3", "'int3' is not a precision", id="unknown"),
    ],
)
def test_a_precision_that_cannot_be_served_is_explained(
    folder: Path, precision: str, text: str
) -> None:
    with pytest.raises(PrecisionError, match=text):
        select_variant(open_bundle(folder), model(folder, precision=precision))


@pytest.mark.parametrize(
    ("instruction_set", "expected"),
    [
        ("avx512-vnni", "int8-vnni"),
        ("amx-int8", "int8-vnni"),
        ("avx2", "int8-avx2"),
        ("avx-vnni", "int8-avx2"),
    ],
)
def test_the_variant_for_the_processor_is_chosen(
    folder: Path, instruction_set: str, expected: str
) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        for name in ("int8-vnni", "int8-avx2"):
            manifest["variants"].append(manifest["variants"][0] | {"id": name, "precision": "int8"})
        manifest["selection"]["int8"] = {"avx512-vnni": "int8-vnni", "avx2": "int8-avx2"}

    change(folder, edit)
    variant = select_variant(
        open_bundle(folder), model(folder, precision="int8"), instruction_set=instruction_set
    )
    assert variant.id == expected


def test_a_processor_without_a_variant_is_told_which_ones_have_one(folder: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["selection"]["int8"] = {"avx512-vnni": "fp32"}

    change(folder, edit)
    with pytest.raises(PrecisionError, match="only for processors with avx512-vnni") as caught:
        select_variant(open_bundle(folder), model(folder, precision="int8"), instruction_set="avx2")
    assert caught.value.reason == "InstructionSetUnavailable"
