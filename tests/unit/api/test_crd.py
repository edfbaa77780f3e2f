"""The CRD is what the types generate, and judges as the types do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_api import crdgen
from deepseek_api.loading import load_pipeline_file
from deepseek_api.v1alpha1.rules import RULES

from tests.unit.api.crd_schema import crd, openapi_schema, schema_error_paths

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
PIPELINES = [
    file
    for file in EXAMPLES
    if all(
        isinstance(document, dict) and document.get("kind") == "ModelPipeline"
        for document in yaml.safe_load_all(file.read_text("utf-8"))
    )
]

STRUCTURAL_KEYS = {
    "additionalProperties", "anyOf", "default", "description", "enum", "exclusiveMinimum",
    "format", "items", "maxItems", "maxLength", "maxProperties", "maximum", "minItems",
    "minLength", "minimum", "pattern", "properties", "required", "type",
    "x-kubernetes-int-or-string", "x-kubernetes-list-map-keys", "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations",
}  # fmt: skip


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


NODES = dict(nodes(openapi_schema()))


def test_the_committed_crd_is_what_the_types_generate() -> None:
    assert crdgen.main(["--check"]) == 0


def test_the_check_fails_on_drift_and_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "crd.yaml"
    stale.write_text(crdgen.render() + "# edited\n", encoding="utf-8")
    assert crdgen.main(["--check"], path=stale) == 1
    assert "python -m deepseek_api.crdgen" in capsys.readouterr().err


def test_generating_writes_a_file_that_passes_the_check(tmp_path: Path) -> None:
    path = tmp_path / "crd.yaml"
    assert crdgen.main([], path=path) == 0
    assert crdgen.main(["--check"], path=path) == 0


@pytest.mark.parametrize("path", NODES, ids=lambda path: path or "root")
def test_every_node_is_structural(path: str) -> None:
    node = NODES[path]
    assert set(node) <= STRUCTURAL_KEYS
    assert "type" in node or node.get("x-kubernetes-int-or-string") is True
    assert "default" not in node or node["default"] is not None


@pytest.mark.parametrize(
    "path", [path for path in NODES if path.startswith(".spec")], ids=lambda path: path
)
def test_everything_a_rule_can_reach_has_a_limit(path: str) -> None:
    node = NODES[path]
    kind = node.get("type")
    if kind == "array":
        assert "maxItems" in node
    if kind == "string":
        assert "maxLength" in node or "enum" in node
    if kind == "object" and "additionalProperties" in node:
        assert "maxProperties" in node


@pytest.mark.parametrize("path", [path for path in NODES if path and not path.endswith("[]")])
def test_every_field_is_described(path: str) -> None:
    if path.startswith(".metadata"):
        return  # Kubernetes forbids it there
    assert NODES[path]["description"].endswith((".", "`"))


def test_all_rules_are_in_the_crd() -> None:
    found = [rule for node in NODES.values() for rule in node.get("x-kubernetes-validations", [])]
    assert sorted(rule["rule"] for rule in found) == sorted(
        rule.cel for table in RULES.values() for rule in table
    )
    assert all(("message" in rule) != ("messageExpression" in rule) for rule in found)


def test_printer_columns_short_name_and_status() -> None:
    spec = crd()["spec"]
    version = spec["versions"][0]
    assert spec["names"]["shortNames"] == ["mpl"]
    assert version["subresources"] == {"status": {}}
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    assert columns == ["Ready", "Replicas", "Models", "Age"]


def test_replicas_have_no_schema_default() -> None:
    # A default of 1 would break `minReplicas: 2`.
    assert "default" not in NODES[".spec.models[].replicas"]


def test_there_are_examples() -> None:
    assert PIPELINES


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.name)
def test_an_example_is_valid_for_the_schema_and_for_the_types(file: Path) -> None:
    for document in yaml.safe_load_all(file.read_text("utf-8")):
        assert schema_error_paths(document) == []
    assert all(not item.warnings for item in load_pipeline_file(file))
