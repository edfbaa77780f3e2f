"""``deepseek validate``: is a pipeline file right, and where is it wrong."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from deepseek_api.catalog import Catalog
from deepseek_api.errors import DeepseekError, InvalidPipelineError, Problem

from deepseek.cli._app import app
from deepseek.cli._catalog import CatalogOption, read_catalog
from deepseek.cli._console import OutputFormat, note, plural, print_json, say
from deepseek.cli._errors import USAGE, show_problems
from deepseek.cli._pipelines import FilesOption, MoreFiles, files_of, read_pipelines


@app.command(epilog="Example: deepseek validate -f examples/*.yaml")
def validate(
    more: MoreFiles = None,
    file: FilesOption = None,
    catalog: CatalogOption = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How to print.")
    ] = OutputFormat.TABLE,
) -> None:
    """Check pipeline files: file, line, column, what is wrong and what to write instead.

    Exits with 0 when all files are valid and with 2 when one is not; warnings do not count.
    """
    known = read_catalog(catalog)
    quiet = output is OutputFormat.JSON
    reports = [_check(name, known, quiet=quiet) for name in files_of(file, more)]
    if quiet:
        print_json({"valid": all(r["valid"] for r in reports), "files": reports})
    elif len(reports) > 1:
        valid = sum(bool(report["valid"]) for report in reports)
        say(f"{valid} of {plural(len(reports), 'file')} valid")
    if not all(report["valid"] for report in reports):
        raise typer.Exit(USAGE)


def _check(name: str, catalog: Catalog, *, quiet: bool) -> dict[str, Any]:
    """Check one file and report it, unless a program reads the result."""
    warnings: list[Problem] = []
    problems: list[Problem] = []
    pipelines: list[str] = []
    try:
        for loaded in read_pipelines(name, catalog):
            pipelines.append(loaded.pipeline.metadata.name)
            warnings += loaded.warnings
    except InvalidPipelineError as error:
        problems += error.problems
    except DeepseekError as error:
        problems.append(Problem(error.message, error.hint, file=name, reason=error.reason))
    if not quiet:
        _show(name, pipelines, problems, warnings)
    return {
        "file": name,
        "valid": not problems,
        "pipelines": pipelines,
        "problems": [asdict(problem) for problem in problems],
        "warnings": [asdict(warning) for warning in warnings],
    }


def _show(
    name: str, pipelines: list[str], problems: list[Problem], warnings: list[Problem]
) -> None:
    show_problems(tuple(problems))
    show_problems(tuple(warnings), label="warning: ")
    if problems:
        note(f"{name}: {plural(len(problems), 'problem')}", style="red")
        return
    counted = f", {plural(len(warnings), 'warning')}" if warnings else ""
    say(f"{name}: valid ({plural(len(pipelines), 'pipeline')}{counted})", style="green")
