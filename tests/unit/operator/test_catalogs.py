"""The catalog of an installation: its file over the built-in entries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from deepseek_api.catalog import builtin_catalog
from deepseek_api.errors import CatalogError
from deepseek_operator.catalogs import CatalogFile, overlaid

LOCAL = {"uri": "oci://registry.example/bert@sha256:" + "0" * 64}


def write(path: Path, text: str, *, tick: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(tick, tick))


def test_an_entry_of_a_known_name_may_name_one_field_only() -> None:
    catalog = overlaid(builtin_catalog(), {"bert-base": {"source": LOCAL}})
    entry, known = catalog.get("bert-base"), builtin_catalog().get("bert-base")
    assert entry.source.uri == LOCAL["uri"]
    assert entry.source.revision is None
    assert entry.model_copy(update={"source": known.source}) == known


def test_every_built_in_entry_survives_being_laid_over_itself() -> None:
    names: dict[str, object] = {name: {} for name in builtin_catalog().names()}
    assert overlaid(builtin_catalog(), names).entries == builtin_catalog().entries


def test_a_new_entry_must_be_complete() -> None:
    with pytest.raises(CatalogError, match=r"The entry 'mine' of the operator's catalog file"):
        overlaid(builtin_catalog(), {"mine": {"source": LOCAL}})


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(CatalogError, match="sourse"):
        overlaid(builtin_catalog(), {"bert-base": {"sourse": LOCAL}})


@pytest.mark.parametrize("present", [True, False])
def test_without_a_file_the_built_in_entries_are_served(tmp_path: Path, present: bool) -> None:
    file = CatalogFile(tmp_path / "absent.yaml" if present else None)
    assert file.current().entries == builtin_catalog().entries
    assert file.problem is None


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    file = CatalogFile(path)
    assert file.current().get("bert-base").source.uri.startswith("hf://")
    write(path, f"models:\n  bert-base:\n    source: {{uri: {LOCAL['uri']!r}}}\n", tick=1)
    assert file.current().get("bert-base").source.uri == LOCAL["uri"]
    write(path, "models: {}\n", tick=2)
    assert file.current().get("bert-base").source.uri.startswith("hf://")


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    write(path, "models: {}\n", tick=1)
    file = CatalogFile(path)
    assert file.current() is file.current()


@pytest.mark.parametrize(
    "text",
    ["models: [1]\n", "- 1\n", "models: {bert-base: {task: 7}}\n", "a: [", "models: {x: 3}\n"],
    ids=["list", "no mapping", "wrong type", "no YAML", "no fields"],
)
def test_a_wrong_file_leaves_the_last_good_entries_in_force(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.yaml"
    write(path, f"models:\n  bert-base:\n    source: {{uri: {LOCAL['uri']!r}}}\n", tick=1)
    file = CatalogFile(path)
    file.current()
    write(path, text, tick=2)
    assert file.current().get("bert-base").source.uri == LOCAL["uri"]
    assert file.problem is not None
    write(path, "models: {}\n", tick=3)
    file.current()
    assert file.problem is None
