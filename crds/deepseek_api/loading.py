"""Reads ModelPipeline files and says exactly what is wrong with them.

Why it exists: the command line must refuse what the API server refuses, with the same verdict and
for rules with the same sentence, and besides point at file, line and column. Everything but
:func:`load_pipeline_file` is free of I/O.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path as FilePath
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from deepseek_api import _semantics
from deepseek_api._diagnostics import Finding, findings
from deepseek_api._yaml_tree import Document, Path, TreeError, field_path, read_documents
from deepseek_api.catalog import Catalog
from deepseek_api.errors import ConfigurationError, ErrorCode, InvalidPipelineError, Problem
from deepseek_api.suggest import did_you_mean
from deepseek_api.v1alpha1.pipeline import API_VERSION, GROUP, KIND, ModelPipeline

__all__ = ["MAX_FILE_BYTES", "LoadedPipeline", "load_pipeline_file", "load_pipelines"]

MAX_FILE_BYTES: Final = 1024 * 1024
"""The largest file that is read; the API server takes no larger object either."""

_OPEN_FIELDS: Final = frozenset({"podTemplate", "behavior", "metrics"})
"""Fields whose content belongs to another API; empty values in there may mean something."""


class LoadedPipeline(NamedTuple):
    """A valid pipeline and what is suspicious about it."""

    pipeline: ModelPipeline
    """The pipeline."""
    warnings: tuple[Problem, ...]
    """What is allowed and probably not meant."""


def load_pipeline_file(
    path: str | FilePath, *, catalog: Catalog | None = None
) -> list[LoadedPipeline]:
    """Read the pipelines of a file; see :func:`load_pipelines`.

    Raises:
        ConfigurationError: the file does not exist or cannot be read.
        InvalidPipelineError: something in the file is wrong.
    """
    name = str(path)
    try:
        with FilePath(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"The file {name} does not exist.",
            hint="Check the path.",
            code=ErrorCode.NOT_FOUND,
            reason="FileNotFound",
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"The file {name} cannot be read: {error.strerror}.",
            hint="Name a readable YAML file.",
            reason="FileUnreadable",
        ) from error
    _check_size(len(data), name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problem = Problem(
            "The file is not UTF-8 text.",
            "Save it as UTF-8.",
            file=name,
            line=line,
            reason="InvalidYaml",
        )
        raise InvalidPipelineError([problem]) from error
    return load_pipelines(text, name, catalog=catalog)


def load_pipelines(
    text: str, filename: str | None = None, *, catalog: Catalog | None = None
) -> list[LoadedPipeline]:
    """Read the pipelines of a YAML text with one or more documents.

    Args:
        text: YAML as kubectl takes it.
        filename: how to call the text in messages.
        catalog: the models that can be named without a source; None: such names are not checked.

    Raises:
        InvalidPipelineError: something is wrong; it lists every problem with its place.
    """
    _check_size(len(text.encode("utf-8", "surrogatepass")), filename)
    loaded: list[LoadedPipeline] = []
    problems: list[Problem] = []
    names: dict[tuple[str | None, str], int] = {}
    try:
        for document in read_documents(text):
            try:
                item = _load(document, filename, catalog)
            except InvalidPipelineError as error:
                problems.extend(error.problems)
                continue
            problems.extend(_name_problems(item.pipeline, document, names, filename))
            loaded.append(item)
    except TreeError as error:
        problems.append(dataclasses.replace(error.problem, file=filename))
    if not loaded and not problems:
        problems.append(
            Problem(
                "The text holds no ModelPipeline.",
                f"Start it with 'apiVersion: {API_VERSION}' and 'kind: {KIND}'.",
                file=filename,
                line=1,
                column=1,
                reason="Empty",
            )
        )
    if problems:
        raise InvalidPipelineError(problems)
    return loaded


def _check_size(size: int, filename: str | None) -> None:
    if size > MAX_FILE_BYTES:
        problem = Problem(
            f"The text is larger than {MAX_FILE_BYTES // 1024} KiB.",
            "Divide it into several files.",
            file=filename,
            reason="TooLarge",
        )
        raise InvalidPipelineError([problem])


def _load(document: Document, filename: str | None, catalog: Catalog | None) -> LoadedPipeline:
    """One document.

    Raises:
        InvalidPipelineError: something in it is wrong.
    """
    wrong_kind = _kind_finding(document.value)
    if wrong_kind is not None:
        raise InvalidPipelineError([_problem(wrong_kind, document, filename)])
    value = _without_nulls(document.value)
    try:
        # by_name=False: a file has to use the names that the API server knows.
        pipeline = ModelPipeline.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        found = findings(error, ModelPipeline, value)
        problems = [_problem(item, document, filename) for item in found]
        problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
        raise InvalidPipelineError(problems) from error
    semantic = [
        _problem(item, document, filename) for item in _semantics.problems(pipeline, catalog)
    ]
    if semantic:
        raise InvalidPipelineError(semantic)
    suspicious = [*_duplicates(document), *_semantics.warnings(pipeline, catalog)]
    return LoadedPipeline(
        pipeline, tuple(_problem(item, document, filename) for item in suspicious)
    )


def _kind_finding(value: object) -> Finding | None:
    """What keeps a document from being a ModelPipeline of this version at all."""
    start = f"Start it with 'apiVersion: {API_VERSION}' and 'kind: {KIND}'."
    if not isinstance(value, dict):
        return Finding((), "The document is not a mapping.", start, reason="NotAPipeline")
    for key in ("apiVersion", "kind"):
        if not isinstance(value.get(key), str):
            return Finding((), f"The document has no {key}.", start, reason="NotAPipeline")
    kind, version = value["kind"], value["apiVersion"]
    if kind != KIND:
        hint = did_you_mean(kind, [KIND]) or f"Only documents of kind {KIND} are read here."
        if kind == "List":
            hint = "Write each pipeline as its own document, separated by '---'."
        return Finding(("kind",), f"The kind '{kind}' is not a {KIND}.", hint, reason="WrongKind")
    if version != API_VERSION:
        what = "version" if version.startswith(f"{GROUP}/") else "group"
        return Finding(
            ("apiVersion",),
            f"The apiVersion '{version}' has an unknown {what}.",
            f"Write apiVersion: {API_VERSION}.",
            reason="WrongVersion",
        )
    return None


def _without_nulls(value: Any) -> Any:
    """The value without empty fields, which the API server drops before it looks."""
    if isinstance(value, dict):
        return {
            key: item if key in _OPEN_FIELDS else _without_nulls(item)
            for key, item in value.items()
            if item is not None
        }
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _duplicates(document: Document) -> list[Finding]:
    return [
        Finding(
            path,
            f"The key '{path[-1]}' is written more than once; the last one counts.",
            "Remove the others.",
            at_key=True,
            reason="DuplicateKey",
        )
        for path in document.duplicates
    ]


def _name_problems(
    pipeline: ModelPipeline,
    document: Document,
    names: dict[tuple[str | None, str], int],
    filename: str | None,
) -> list[Problem]:
    key = (pipeline.metadata.namespace, pipeline.metadata.name)
    first = names.setdefault(key, document.start.line)
    if first == document.start.line:
        return []
    finding = Finding(
        ("metadata", "name"),
        f"The pipeline '{key[1]}' is already in the document that starts at line {first}.",
        "Give it another name, or remove one of the two.",
        reason="DuplicateName",
    )
    return [_problem(finding, document, filename)]


def _problem(finding: Finding, document: Document, filename: str | None) -> Problem:
    path: Path = finding.path
    # A field that is written and empty counts as missing; its key is the place to look at.
    place = document.position(path, of_key=finding.at_key or document.is_empty(path))
    return Problem(
        finding.message,
        finding.hint,
        path=field_path(path),
        file=filename,
        line=place.line,
        column=place.column,
        reason=finding.reason,
    )
