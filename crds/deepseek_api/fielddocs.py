"""Reads the docstrings under fields and enum members from the source code.

Why it exists: the text under a field is the only place where the field is explained; the CRD and
the reference are made from it. Python does not keep these strings at run time. Only generators
and tests may use this module: it parses source files.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from types import ModuleType

__all__ = ["class_doc", "field_docs"]


@functools.cache
def _docs_of_module(module: ModuleType) -> dict[str, dict[str, str]]:
    tree = ast.parse(inspect.getsource(module))
    return {
        node.name: _docs_of_class(node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    }


def _docs_of_class(node: ast.ClassDef) -> dict[str, str]:
    docs: dict[str, str] = {}
    for statement, following in zip(node.body, node.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign):
            target: ast.expr = statement.target
        elif isinstance(statement, ast.Assign):
            target = statement.targets[0]
        else:
            continue
        is_text = (
            isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        )
        if isinstance(target, ast.Name) and is_text:
            docs[target.id] = _one_line(ast.literal_eval(following.value))  # type: ignore[attr-defined]
    return docs


def _one_line(text: str) -> str:
    """The text without line breaks, code marked as Markdown does it."""
    return re.sub(r"\s+", " ", text).strip().replace("``", "`")


def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field (or enum member) of a class, by Python name."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        module = inspect.getmodule(base)
        if module is not None and module.__name__.startswith("deepseek_api"):
            docs.update(_docs_of_module(module).get(base.__name__, {}))
    return docs


def class_doc(cls: type) -> str:
    """The docstring of a class: its paragraphs, each on one line, separated by an empty line."""
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    return "\n\n".join(_one_line(paragraph) for paragraph in paragraphs)
