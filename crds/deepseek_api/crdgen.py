"""Writes the CustomResourceDefinition of ``ModelPipeline`` from the types.

Why it exists: two hand-kept copies of a schema drift apart. ``python -m deepseek_api.crdgen``
writes the file, ``--check`` fails when the committed one differs. Only developers and tests run
this module; nothing at run time may depend on it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema

from deepseek_api import v1alpha1
from deepseek_api.base import WireModel
from deepseek_api.fielddocs import class_doc, field_docs
from deepseek_api.v1alpha1.rules import RULES

__all__ = ["CRD_PATH", "crd", "main", "openapi_schema", "render"]

CRD_PATH = Path(__file__).resolve().parents[1] / "deepseek.ai_modelpipelines.yaml"
"""Where the generated file is kept."""

HEADER = """\
# Generated from the types of deepseek_api.v1alpha1; do not edit.
# To change it: edit the types, then run `python -m deepseek_api.crdgen`.
"""

PRINTER_COLUMNS = [
    {
        "name": "Ready",
        "type": "string",
        "jsonPath": ".status.conditions[?(@.type=='Ready')].status",
        "description": "Whether every model has its granted replicas ready.",
    },
    {
        "name": "Replicas",
        "type": "string",
        "jsonPath": ".status.replicas",
        "description": "Ready and granted replicas.",
    },
    {
        "name": "Models",
        "type": "string",
        "jsonPath": ".status.modelNames",
        "description": "Names of the models.",
    },
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]

Schema = dict[str, Any]

_DROPPED = ("title", "$defs", "discriminator")


class _Structural:
    """Turns pydantic's JSON schema into a structural schema of Kubernetes."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._rules = {place: [rule.to_cel() for rule in rules] for place, rules in RULES.items()}

    def type_schema(self, name: str) -> Schema:
        """The schema of one of our types, with descriptions and rules."""
        cls: type[WireModel] | None = getattr(v1alpha1, name, None)
        source = dict(self._definitions[name])
        source.pop("description", None)
        schema = self.convert(source)
        if cls is not None and issubclass(cls, WireModel):
            self._describe(schema, cls)
        if name in self._rules:
            schema["x-kubernetes-validations"] = self._rules[name]
        return _ordered(schema)

    def _describe(self, schema: Schema, cls: type[WireModel]) -> None:
        docs = field_docs(cls)
        properties = schema["properties"]
        for key, field in cls.model_fields.items():
            name = field.alias or key
            described = {**properties[name], "description": docs[key]}
            rules = self._rules.get(f"{cls.__name__}.{name}")
            if rules:
                described["x-kubernetes-validations"] = rules
            properties[name] = _ordered(described)

    def convert(self, schema: Schema) -> Schema:
        """One node of the schema and everything below it."""
        node = {key: value for key, value in schema.items() if key not in _DROPPED}
        node = self._without_null(node)
        if "$ref" in node:
            name = node.pop("$ref").rsplit("/", 1)[1]
            self._fix_default(node)
            return _ordered({**self.type_schema(name), **node})
        if "const" in node:
            node["enum"] = [node.pop("const")]
        if isinstance(node.get("exclusiveMinimum"), int | float):
            node["minimum"] = node["exclusiveMinimum"]
            node["exclusiveMinimum"] = True
        # Pruning and strict field validation refuse unknown fields; structural schemas may not.
        if node.get("additionalProperties") in (True, False):
            del node["additionalProperties"]
        self._fix_default(node)
        if "properties" in node:
            node["properties"] = {k: self.convert(v) for k, v in node["properties"].items()}
        for key in ("items", "additionalProperties"):
            if key in node:
                node[key] = self.convert(node[key])
        return _ordered(node)

    @staticmethod
    def _without_null(node: Schema) -> Schema:
        """An optional value is an absent field, never null."""
        options = [option for option in node.get("anyOf", ()) if option != {"type": "null"}]
        if len(options) == 1:
            rest = {key: value for key, value in node.items() if key != "anyOf"}
            return {**options[0], **rest}
        return node

    @staticmethod
    def _fix_default(node: Schema) -> None:
        default = node.get("default")
        if isinstance(default, dict):
            # The defaults of the fields inside fill it up.
            node["default"] = {}
        elif default in (None, []):
            node.pop("default", None)


def _ordered(node: Schema) -> Schema:
    """The same node, its keys in the order that people read them."""
    first = ("description", "type", "format", "default", "enum")
    last = ("required", "properties", "items", "x-kubernetes-validations")
    middle = [key for key in node if key not in first + last]
    return {key: node[key] for key in (*first, *middle, *last) if key in node}


def openapi_schema() -> Schema:
    """The ``openAPIV3Schema`` of the CRD."""
    raw = v1alpha1.ModelPipeline.model_json_schema(
        by_alias=True, schema_generator=GenerateJsonSchema
    )
    definitions: dict[str, Schema] = raw.pop("$defs")
    # The API server owns these three: a CRD may only say what kind of value they have.
    raw["properties"]["metadata"] = {"type": "object"}
    for name in ("apiVersion", "kind"):
        raw["properties"][name] = {"type": "string"}
    raw["required"] = ["spec"]
    definitions["ModelPipeline"] = raw
    schema = _Structural(definitions).type_schema("ModelPipeline")
    # Not even a description is allowed here; the name is needed for the path of its rule.
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {"name": {"type": "string"}},
    }
    return _ordered({"description": class_doc(v1alpha1.ModelPipeline), **schema})


def crd() -> Schema:
    """The whole CustomResourceDefinition."""
    version = {
        "name": v1alpha1.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": PRINTER_COLUMNS,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": openapi_schema()},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"modelpipelines.{v1alpha1.GROUP}"},
        "spec": {
            "group": v1alpha1.GROUP,
            "names": {
                "kind": v1alpha1.KIND,
                "listKind": f"{v1alpha1.KIND}List",
                "plural": "modelpipelines",
                "singular": "modelpipeline",
                "shortNames": ["mpl"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


class _Dumper(yaml.SafeDumper):
    """Writes shared values twice: kubectl reads aliases, people do not like to."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def render() -> str:
    """The text of the generated file."""
    return HEADER + yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def main(argv: list[str] | None = None, *, path: Path = CRD_PATH) -> int:
    """Write the file, or with ``--check`` compare it; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_api.crdgen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    arguments = parser.parse_args(argv)
    text = render()
    if not arguments.check:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print(
        f"{path.name} differs from what the types say. Run `python -m deepseek_api.crdgen`.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
