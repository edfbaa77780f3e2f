"""Writes docs/pipeline-reference.md from the types.

Why it exists: a reference that is written by hand is wrong after the next change.
``python -m deepseek_api.docgen`` writes the file, ``--check`` fails when the committed one
differs. Only developers and tests run this module; nothing at run time may depend on it.
"""

from __future__ import annotations

import argparse
import enum
import sys
from pathlib import Path
from typing import Any, Final

from deepseek_api import catalog, processing, v1alpha1
from deepseek_api._docexamples import EXAMPLES
from deepseek_api.base import WireModel
from deepseek_api.fielddocs import class_doc, field_docs
from deepseek_api.v1alpha1 import rules

__all__ = ["DOC_PATH", "main", "render"]

DOC_PATH = Path(__file__).resolve().parents[2] / "docs" / "pipeline-reference.md"
"""Where the generated file is kept."""

SPEC_TYPES: Final[tuple[type[WireModel], ...]] = (
    v1alpha1.ModelPipeline,
    v1alpha1.ModelPipelineSpec,
    v1alpha1.Model,
    v1alpha1.Source,
    v1alpha1.Quantization,
    v1alpha1.Parallelism,
    v1alpha1.Resources,
    v1alpha1.Batching,
    v1alpha1.Generation,
    v1alpha1.Speculative,
    v1alpha1.Adapter,
    v1alpha1.AdapterSource,
    v1alpha1.Autoscaling,
    v1alpha1.Metric,
    v1alpha1.Rollout,
    v1alpha1.Scheduler,
    v1alpha1.PriorityRule,
    v1alpha1.Budget,
)
STATUS_TYPES: Final[tuple[type[WireModel], ...]] = (
    v1alpha1.ModelPipelineStatus,
    v1alpha1.Condition,
    v1alpha1.ModelStatus,
    v1alpha1.AllocationStatus,
)
CATALOG_TYPES: Final[tuple[type[WireModel], ...]] = (
    catalog.CatalogEntry,
    catalog.CatalogSource,
    processing.TextPreprocessing,
    processing.ImagePreprocessing,
    processing.NoPreprocessing,
    processing.EmbeddingPostprocessing,
    processing.ClassificationPostprocessing,
    processing.NoPostprocessing,
)

INTRODUCTION: Final = """\
<!-- Generated from the types of deepseek_api; do not edit. Run `python -m deepseek_api.docgen`. -->

# ModelPipeline reference

A `ModelPipeline` (`deepseek.ai/v1alpha1`, short name `mpl`) is a set of models that are served
together. The same file works with `kubectl apply -f` and with `deepseek serve -f`. How replicas
are shared out is explained in [allocation.md](allocation.md).

Fields marked **required** must be written. An absent field without a default in the table stays
absent; its description says what then applies. Unknown fields are refused by `kubectl` (strict
validation is its default) and by `deepseek`.
"""

RULES_TITLE: Final = """\
## Rules across fields

The API server and the command line refuse a pipeline that breaks one of these, with this text.
`%s`, `%d` and `%.4f` stand for the values in the file.
"""

Schema = dict[str, Any]


def _anchor(cls: type) -> str:
    return cls.__name__.lower()


class _Section:
    """The section of one type."""

    def __init__(self, cls: type[WireModel], documented: set[str]) -> None:
        self._cls = cls
        self._documented = documented
        self._schema: Schema = cls.model_json_schema(by_alias=True)
        self._definitions: dict[str, Schema] = self._schema.get("$defs", {})

    def lines(self) -> list[str]:
        text = [f"### {self._cls.__name__}", "", class_doc(self._cls), ""]
        text += ["| field | type | default | meaning |", "|---|---|---|---|"]
        docs = field_docs(self._cls)
        required = self._schema.get("required", [])
        for key, field in self._cls.model_fields.items():
            name = field.serialization_alias or key
            schema = self._schema["properties"][name]
            default = "**required**" if name in required else self._default(schema)
            meaning = docs[key].replace("|", "\\|")
            text.append(f"| `{name}` | {self._type(schema)} | {default} | {meaning} |")
        example = EXAMPLES.get(self._cls.__name__)
        if example:
            text += ["", "```yaml", example.strip(), "```"]
        return [*text, ""]

    @staticmethod
    def _default(schema: Schema) -> str:
        value = schema.get("default")
        if value is None or isinstance(value, list | dict):
            return ""
        return f"`{str(value).lower() if isinstance(value, bool) else value}`"

    def _type(self, schema: Schema) -> str:
        if "$ref" in schema:
            return self._reference(schema["$ref"].rsplit("/", 1)[1])
        if schema.get("x-kubernetes-int-or-string"):
            return "amount such as `250m` or `1Gi`"
        options = schema.get("oneOf") or [
            option for option in schema.get("anyOf", ()) if option != {"type": "null"}
        ]
        if options:
            return " or ".join(self._type(option) for option in options)
        if "const" in schema:
            return f"`{schema['const']}`"
        if "enum" in schema:
            return ", ".join(f"`{value}`" for value in schema["enum"])
        kind = schema.get("type")
        if kind == "array":
            return (
                f"list of {self._type(schema['items'])}{_items(schema)}"
                if ("items" in schema)
                else "list of 3 numbers"
            )
        if kind == "object":
            inner = schema.get("additionalProperties")
            return f"mapping to {self._type(inner)}" if isinstance(inner, dict) else "object"
        return _scalar_type(schema)

    def _reference(self, name: str) -> str:
        definition = self._definitions[name]
        if "enum" in definition:
            return ", ".join(f"`{value}`" for value in definition["enum"])
        return f"[{name}](#{name.lower()})" if name in self._documented else f"`{name}`"


def _items(schema: Schema) -> str:
    low, high = schema.get("minItems"), schema.get("maxItems")
    if low is not None and high is not None:
        return f", {low} to {high}"
    return f", at most {high}" if high is not None else ""


def _scalar_type(schema: Schema) -> str:
    kind = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`"}.get(
        schema.get("type", ""), "text"
    )
    low, high = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    if above is not None:
        kind += f", above {above}"
    if low is not None and high is not None:
        return f"{kind}, {low} to {high}"
    if low is not None:
        return f"{kind}, at least {low}"
    return f"{kind}, at most {high}" if high is not None else kind


def _enum_table(cls: type[enum.StrEnum], title: str) -> list[str]:
    docs = field_docs(cls)
    lines = [f"### {title}", "", class_doc(cls), "", "| word | meaning |", "|---|---|"]
    for member in cls:
        lines.append(f"| `{member.value}` | {docs[member.name]} |")
    return [*lines, ""]


def _rules_table() -> list[str]:
    lines = [RULES_TITLE, "| at | text |", "|---|---|"]
    for place, table in rules.RULES.items():
        for rule in table:
            at = f"{place}.{rule.field}" if rule.field else place
            lines.append(f"| `{at}` | {rule.message} {rule.hint} |")
    return [*lines, ""]


def render() -> str:
    """The text of the generated file."""
    lines = [INTRODUCTION]
    documented = {cls.__name__ for cls in (*SPEC_TYPES, *STATUS_TYPES, *CATALOG_TYPES)}
    for title, types in (("Spec", SPEC_TYPES), ("Status", STATUS_TYPES)):
        lines += [f"## {title}", ""]
        for cls in types:
            lines += _Section(cls, documented).lines()
    lines += _enum_table(v1alpha1.ConditionType, "Condition types")
    lines += _enum_table(v1alpha1.ConditionReason, "Condition reasons")
    lines += _rules_table()
    lines += ["## Catalog entry", ""]
    for cls in CATALOG_TYPES:
        lines += _Section(cls, documented).lines()
    return "\n".join(lines).rstrip() + "\n"


def main(argv: list[str] | None = None, *, path: Path = DOC_PATH) -> int:
    """Write the file, or with ``--check`` compare it; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_api.docgen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    arguments = parser.parse_args(argv)
    text = render()
    if not arguments.check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print(
        f"{path.name} differs from what the types say. Run `python -m deepseek_api.docgen`.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
