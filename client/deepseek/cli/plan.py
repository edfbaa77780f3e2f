"""``deepseek plan``: how many replicas each model would get, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Annotated

import typer
from deepseek_api.allocation import Allocation, allocate, format_share
from deepseek_api.errors import ConfigurationError
from rich.table import Table
from rich.text import Text

from deepseek.cli._app import app
from deepseek.cli._catalog import CatalogOption, read_catalog
from deepseek.cli._console import OutputFormat, note, plural, print_json, say, show, table
from deepseek.cli._errors import show_problems
from deepseek.cli._pipelines import FileOption, files_of, read_pipelines


@app.command(epilog="Example: deepseek plan -f examples/nlp-vision-joint.yaml")
def plan(
    file: FileOption = None,
    demand: Annotated[
        list[str] | None,
        typer.Option(help="Demand of a model instead of the file's.", metavar="MODEL=NUMBER"),
    ] = None,
    catalog: CatalogOption = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How to print.")
    ] = OutputFormat.TABLE,
) -> None:
    """Show how many replicas each model of a pipeline gets under its weights and budget, and why.

    Nothing is started: this is the arithmetic that a cluster follows.
    """
    known = read_catalog(catalog)
    name = files_of([file] if file else None, None)[0]
    demands = dict(_demand(text) for text in demand or [])
    plans = []
    for loaded in read_pipelines(name, known):
        show_problems(loaded.warnings, label="warning: ")
        allocation = allocate(loaded.pipeline, demands=demands, catalog=known)
        warned = any(warning.reason == "RuleWithoutModel" for warning in loaded.warnings)
        plans.append((loaded.pipeline.metadata.name, allocation, warned))
    if output is OutputFormat.JSON:
        documents = [{"pipeline": title, **made.to_wire()} for title, made, _ in plans]
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    for number, (title, allocation, warned) in enumerate(plans):
        if number:
            say()
        _show(title, allocation)
        if not warned:  # else a warning with its place in the file has said so
            for kind in allocation.rules_without_model:
                note(f"The rule for type '{kind}' does not count: no model has this type.")


def _demand(text: str) -> tuple[str, int]:
    model, _, number = text.partition("=")
    if not model or not number.isdigit():
        raise ConfigurationError(
            f"'{text}' is not a demand.", hint="Write MODEL=NUMBER, for example bert-base=4."
        )
    return model, int(number)


def _show(title: str, allocation: Allocation) -> None:
    rows = [
        (
            row.model,
            row.type or "-",
            percent(row.weight),
            str(row.demand),
            format_share(row.entitled),
            str(row.granted),
            row.limited_by.value,
        )
        for row in allocation.rows
    ]
    say(f"{title}: {_budget(allocation)}", style="bold")
    show(allocation_table(rows))
    say()
    for row in allocation.rows:
        say(f"{row.model}: {row.explanation}")
    if not allocation.floors_fit:
        note("The budget does not cover what every model must have at least.", style="yellow")


def allocation_table(rows: Iterable[Sequence[str | Text]], *, ready: bool = False) -> Table:
    """The table of an allocation, one row a model; ``ready`` adds a column before the last."""
    numbers = ["WEIGHT", "WANTS", "ENTITLED", "GETS", *(["READY"] if ready else [])]
    columns = ("MODEL", "TYPE", *numbers, "LIMITED BY")
    return table(columns, rows, right=numbers, fixed=["TYPE", "LIMITED BY"])


def _budget(allocation: Allocation) -> str:
    granted = plural(sum(row.granted for row in allocation.rows), "replica")
    if allocation.budget is None:
        return f"{granted}, no budget"
    return f"{granted}, {allocation.used} of {allocation.budget} {allocation.unit.value} used"


def percent(weight: Fraction) -> str:
    """A share of one as a percentage: ``70 %``, ``33.3 %``."""
    return f"{float(weight * 100):.1f}".removesuffix(".0") + " %"
