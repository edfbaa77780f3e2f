"""``deepseek cache``: the prepared bundles of this user."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from deepseek_api.errors import ConfigurationError, DeepseekError

from deepseek import _here
from deepseek.cli._app import Group, app
from deepseek.cli._console import OutputFormat, plural, print_json, say, show, size, table

cache = typer.Typer(cls=Group, no_args_is_help=True, help="List or remove prepared bundles.")
app.add_typer(cache, name="cache")


@cache.command("list")
def list_(
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How to print.")
    ] = OutputFormat.TABLE,
) -> None:
    """List the prepared bundles and their sizes."""
    from deepseek_engine.prepare.api import cache_folder

    folder = cache_folder()
    bundles = [_describe(path) for path in _bundles(folder)]
    if output is OutputFormat.JSON:
        print_json({"folder": str(folder), "bundles": bundles})
        return
    rows = [
        (str(b["model"]), str(b["source"]), str(b["variants"]), size(int(str(b["bytes"]))))
        for b in bundles
    ]
    if rows:
        show(table(("MODEL", "SOURCE", "VARIANTS", "SIZE"), rows, right=["SIZE"], fixed=["MODEL"]))
    total = sum(int(str(bundle["bytes"])) for bundle in bundles)
    say(f"{plural(len(bundles), 'bundle')}, {size(total)}, in {folder}")
    if imports := _imports():
        say(f"Imported weights of other formats: {size(_here.folder_bytes(imports))}, in {imports}")


@cache.command()
def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove all prepared bundles and what was made on the way to them.

    They are made again when they are needed.
    """
    from deepseek_engine.prepare.api import cache_folder

    folder, imports = cache_folder(), _imports()
    found = _bundles(folder)
    if not found and imports is None:
        say(f"There are no bundles in {folder}.")
        return
    total = _here.folder_bytes(folder) + (_here.folder_bytes(imports) if imports else 0)
    if not yes and not typer.confirm(
        f"Remove {plural(len(found), 'bundle')} ({size(total)}) in {folder}?"
    ):
        raise typer.Exit(1)
    for each in (folder, imports):
        if each is not None and each.exists():
            _remove(each)
    say(f"Removed {plural(len(found), 'bundle')}, {size(total)}.")


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise ConfigurationError(
            f"The cache in '{folder}' cannot be removed: {error.strerror}.",
            hint="Check the permissions of the folder.",
        ) from error


def _imports() -> Path | None:
    """The folder of imported weights, if there is one."""
    from deepseek_engine.prepare.folders import imports_folder

    folder = imports_folder()
    return folder if folder.is_dir() else None


def _bundles(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/manifest.json"))


def _describe(path: Path) -> dict[str, object]:
    from deepseek_api.manifest import parse_manifest

    entry: dict[str, object] = {"path": str(path), "bytes": _here.folder_bytes(path)}
    try:
        manifest = parse_manifest((path / "manifest.json").read_bytes())
    except (DeepseekError, OSError) as error:
        return {**entry, "model": path.name, "source": f"unreadable: {error}", "variants": 0}
    source = manifest.source.uri + (" (random weights)" if manifest.random_weights else "")
    return {
        **entry,
        "model": manifest.name,
        "source": source,
        "variants": len(manifest.variants),
    }
