"""Reading the pipeline files that a command was given.

Why it exists: ``plan``, ``validate`` and ``serve`` take the same ``-f`` option: one or more files,
and ``-`` for standard input.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from deepseek_api.catalog import Catalog
from deepseek_api.errors import ConfigurationError
from deepseek_api.loading import LoadedPipeline, load_pipeline_file, load_pipelines

FilesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--file", "-f", help="ModelPipeline files; - reads standard input.", metavar="FILE..."
    ),
]
FileOption = Annotated[
    str | None,
    typer.Option(
        "--file", "-f", help="ModelPipeline file; - reads standard input.", metavar="FILE"
    ),
]
MoreFiles = Annotated[list[str] | None, typer.Argument(hidden=True, metavar="FILE")]


def files_of(given: list[str] | None, more: list[str] | None) -> list[str]:
    """The files of ``-f a.yaml b.yaml``, in order.

    Raises:
        ConfigurationError: there is none.
    """
    files = [*(given or []), *(more or [])]
    if not files:
        raise ConfigurationError("No file was named.", hint="Add -f FILE, or -f - for stdin.")
    return files


def read_pipelines(file: str, catalog: Catalog) -> list[LoadedPipeline]:
    """The pipelines of a file or of standard input.

    Raises:
        ConfigurationError: the file cannot be read.
        InvalidPipelineError: something in it is wrong.
    """
    if file == "-":
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
        return load_pipelines(text, "<stdin>", catalog=catalog)
    return load_pipeline_file(file, catalog=catalog)
