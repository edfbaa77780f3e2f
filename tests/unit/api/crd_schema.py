"""Judges objects by the committed CRD's schema alone, as the API server does before CEL.

The schema is the independent side of the comparison: nothing here imports the types.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

CRD_FILE = Path(__file__).parents[3] / "crds" / "deepseek.ai_modelpipelines.yaml"

Json = dict[str, Any]


def crd() -> Json:
    loaded: Json = yaml.safe_load(CRD_FILE.read_text("utf-8"))
    return loaded


def openapi_schema() -> Json:
    schema: Json = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _properties(
    validator: Any, properties: Json, instance: object, schema: Json
) -> Iterator[jsonschema.ValidationError]:
    yield from jsonschema.Draft4Validator.VALIDATORS["properties"](
        validator, properties, instance, schema
    )
    # Strict field validation: what the schema does not know is refused.
    open_object = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-metadata")
    if isinstance(instance, dict) and not open_object:
        for key in instance.keys() - properties.keys():
            yield jsonschema.ValidationError(f"unknown field {key}", path=[key])


def _list_map(
    validator: Any, keys: list[str], instance: object, schema: Json
) -> Iterator[jsonschema.ValidationError]:
    if not isinstance(instance, list):
        return
    seen = []
    for index, item in enumerate(instance):
        value = [item.get(key) for key in keys] if isinstance(item, dict) else item
        if value in seen:
            yield jsonschema.ValidationError("duplicate value", path=[index])
        seen.append(value)


_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft4Validator,
    {"properties": _properties, "x-kubernetes-list-map-keys": _list_map},
)


def _validator() -> Any:
    schema = copy.deepcopy(openapi_schema())
    # The API server knows metadata by itself.
    schema["properties"]["metadata"]["x-metadata"] = True
    return _Validator(schema)


VALIDATOR = _validator()


def schema_error_paths(value: object) -> list[str]:
    """The fields that the schema refuses, as Kubernetes writes them."""
    paths = []
    for error in VALIDATOR.iter_errors(_without_nulls(value)):
        parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path]
        if error.validator == "required":
            parts.append("." + error.message.split("'")[1])
        paths.append("".join(parts).removeprefix("."))
    return paths


def _without_nulls(value: object) -> object:
    """The API server prunes empty fields before it looks."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
