"""The chart's files agree with the code; no Helm is needed."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from deepseek_operator.config import OperatorConfig

from tests.unit.chart.rendering import CHART, ROOT, chart_file, default_values

SCHEMA = chart_file("values.schema.json")
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)

RENAMED = {
    "namespaces": "watchNamespaces",
    "imagePullPolicy": "workerImagePullPolicy",
    "imagePullSecrets": "workerImagePullSecrets",
}
"""Settings whose value has another name: the chart also has an image and a namespace of its own."""
CHARTS_OWN = {"catalogFile", "healthPort", "metricsPort"}
"""Settings that follow from the chart's templates."""
CHARTS_CHOICE = {"images", "torchImage"}
"""Settings that the operator cannot know and the chart can."""


def merged(path: str, value: object) -> dict[str, Any]:
    """The default values with one changed; ``path`` has dots."""
    values = copy.deepcopy(default_values())
    *parents, last = path.split(".")
    at = values
    for parent in parents:
        at = at[parent]
    at[last] = value
    return values


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Numbers of a schema by path with dots."""
    for name, part in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        if part.get("type") in {"number", "integer"}:
            yield where, part
        yield from leaves(part, where)


def test_the_schema_is_a_schema_and_accepts_the_default_values() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert list(VALIDATOR.iter_errors(default_values())) == []


def test_every_default_is_the_operators_own() -> None:
    names = OperatorConfig.model_json_schema()["properties"].keys()
    values = {
        name: default_values()[RENAMED.get(name, name)]
        for name in names - CHARTS_OWN - CHARTS_CHOICE
    }
    assert OperatorConfig.model_validate(values) == OperatorConfig()


def test_numbers_have_the_bounds_of_the_operators_settings() -> None:
    schema = OperatorConfig.model_json_schema()
    schema["properties"]["drain"] = schema["$defs"]["DrainSettings"]
    operators = {path: part for path, part in leaves(schema) if path not in CHARTS_OWN}
    charts = {path: part for path, part in leaves(SCHEMA) if path in operators}
    kept = ("type", "minimum", "maximum")
    assert charts.keys() == operators.keys()
    for path, part in operators.items():
        assert {key: charts[path][key] for key in kept} == {key: part[key] for key in kept}, path


WRONG: dict[str, tuple[str, object, str]] = {
    "unknown name": ("watchNamespace", ["a"], "'watchNamespace' was unexpected"),
    "unknown nested name": ("drain.preStop", 5, "'preStop' was unexpected"),
    "text for a number": ("resyncS", "10m", "'10m' is not of type 'number'"),
    "fraction of a pipeline": ("concurrency", 1.5, "1.5 is not of type 'integer'"),
    "too small": ("drain.graceS", 0, "0 is less than the minimum of 1"),
    "too large": ("demandHoldS", 3601, "3601 is greater than the maximum of 3600"),
    "text for a switch": ("allowRandomWeights", "yes", "'yes' is not of type 'boolean'"),
    "level": ("logLevel", "trace", "'trace' is not one of ['debug', 'info', 'warning', 'error']"),
    "device": ("defaultDevice", "gpu", "'gpu' is not one of ['cpu', 'cuda', 'rocm', 'npu']"),
    "image of an unknown device": ("images.tpu", "x", "'tpu' was unexpected"),
    "image with a space": ("images.cpu", "a b", "'a b' does not match"),
    "resource without a domain": ("deviceResources.cuda", "gpu", "'gpu' does not match"),
    "namespace in capitals": ("watchNamespaces", ["Team"], "'Team' does not match"),
    "namespace twice": ("watchNamespaces", ["a", "a"], "has non-unique elements"),
    "namespaces as text": ("watchNamespaces", "a", "'a' is not of type 'array'"),
    "pull policy": ("workerImagePullPolicy", "always", "'always' is not one of"),
    "pull secret as an object": ("workerImagePullSecrets", [{"name": "a"}], "is not of type"),
    "catalog name": ("catalog.models", {"A B": {}}, "'A B' do"),
    "port": ("networkPolicy.apiServerPorts", [70000], "70000 is greater than the maximum"),
    "registry with a slash at its end": ("registry", "host/", "'host/' does not match"),
    "removed setting": ("logLevel", None, "None is not one of"),
}


@pytest.mark.parametrize(("path", "value", "message"), WRONG.values(), ids=WRONG.keys())
def test_the_schema_refuses_a_wrong_value(path: str, value: object, message: str) -> None:
    (error,) = VALIDATOR.iter_errors(merged(path, value))
    assert message in error.message


def test_no_setting_may_be_left_out() -> None:
    def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if schema.get("additionalProperties") is False:
            yield schema
        for part in schema.get("properties", {}).values():
            yield from objects(part)

    optional = {
        name
        for part in objects(SCHEMA)
        for name in part.get("properties", {}).keys() - set(part.get("required", ()))
    }
    devices = {"cpu", "cuda", "rocm", "npu"}
    assert optional == {"global"} | devices


def test_the_definition_of_the_kind_is_the_generated_one() -> None:
    name = "deepseek.ai_modelpipelines.yaml"
    assert (CHART / "files" / "modelpipelines.yaml").read_bytes() == (
        ROOT / "crds" / name
    ).read_bytes(), f"cp crds/{name} charts/deepseek-operator/files/modelpipelines.yaml"


def test_the_chart_has_the_version_of_the_package() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (about["version"], about["appVersion"]) == (version, version)


def test_both_pages_remove_everything_by_the_same_command() -> None:
    pages = (CHART / "README.md", ROOT / "docs" / "kubernetes.md")
    sections = [page.read_text("utf-8").split("## Remove everything", 1)[1] for page in pages]
    chart, docs = (section.split("```")[1] for section in sections)
    assert "kubectl delete crd modelpipelines.deepseek.ai" in chart
    assert chart == docs
