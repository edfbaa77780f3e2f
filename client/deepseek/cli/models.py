"""``deepseek models``: the catalog, and what of it can run here."""

from __future__ import annotations

from typing import Annotated

import typer
from deepseek_api.catalog import Catalog, CatalogEntry

from deepseek._here import why_not
from deepseek.cli._app import app
from deepseek.cli._catalog import CatalogOption, read_catalog
from deepseek.cli._console import OutputFormat, bad, good, note, print_json, show, table


@app.command()
def models(
    catalog: CatalogOption = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How to print.")
    ] = OutputFormat.TABLE,
) -> None:
    """List the models that a pipeline can name, and say which can run here.

    Example: deepseek models -o json
    """
    known = read_catalog(catalog)
    if output is OutputFormat.JSON:
        print_json([_as_json(entry) for entry in _sorted(known)])
        return
    rows, reasons = [], []
    for entry in _sorted(known):
        reason = why_not(entry)
        if reason is not None:
            reasons.append(f"{entry.name}: {reason}")
        runs = good("yes") if reason is None else bad("no")
        download = f"{entry.download_mib} MiB" if entry.download_mib else "-"
        weights = entry.source.uri.partition("://")[0]
        rows.append((entry.name, entry.type, entry.task, weights, download, runs))
    columns = ("MODEL", "TYPE", "TASK", "FROM", "DOWNLOAD", "RUNS HERE")
    show(table(columns, rows, right=["DOWNLOAD"], fixed=columns))
    for reason in reasons:
        note(reason)
    if any(entry.source.uri.startswith("hf://") for entry in known):
        note(
            "Models from hf:// need a model hub within reach; without one, serve them with "
            "--weights random."
        )


def _sorted(catalog: Catalog) -> list[CatalogEntry]:
    return [catalog.get(name) for name in catalog.names()]


def _as_json(entry: CatalogEntry) -> dict[str, object]:
    reason = why_not(entry)
    return {**entry.to_wire(), "runsHere": reason is None, "reason": reason}
