"""``deepseek serve``: a pipeline file on this machine."""

from __future__ import annotations

import enum
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from deepseek_api.catalog import Catalog
from deepseek_api.errors import ConfigurationError
from deepseek_api.suggest import did_you_mean
from deepseek_api.v1alpha1 import ModelPipeline
from typer.core import TyperCommand

from deepseek.cli._app import app
from deepseek.cli._catalog import CatalogOption, read_catalog
from deepseek.cli._console import note
from deepseek.cli._errors import FAILED, exit_code, show_error, show_problems
from deepseek.cli._pipelines import FileOption, files_of, read_pipelines
from deepseek.cli._weights import Weights

if TYPE_CHECKING:
    from deepseek._local import LocalModel, WorkerReport

TERMINATED = 128 + signal.SIGTERM
OPENAI_PORT = 8000
"""Port of OpenAI's interface when none is given."""


class LogLevel(enum.StrEnum):
    """How much the worker logs."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(enum.StrEnum):
    """How the worker logs."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class ServeCommand(TyperCommand):
    """Lets ``--openai`` stand without a port."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; the port of a bare ``--openai`` is filled in."""
        filled = []
        for place, argument in enumerate(args):
            filled.append(argument)
            following = args[place + 1 : place + 2]
            if argument == "--openai" and not (following and following[0].isdecimal()):
                filled.append(str(OPENAI_PORT))
        return super().parse_args(ctx, filled)


@app.command(cls=ServeCommand, epilog="Example: deepseek serve -f examples/quickstart.yaml")
def serve(
    file: FileOption = None,
    pipeline: Annotated[
        str | None, typer.Option(help="Pipeline to serve when the file holds several.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(help="Port of gRPC; 0 takes a free one.")] = 8001,
    http_port: Annotated[
        int, typer.Option(help="Port of health and metrics; 0 takes a free one.")
    ] = 8080,
    weights: Annotated[
        Weights, typer.Option(help="Random weights need no download; their answers mean nothing.")
    ] = Weights.REAL,
    seed: Annotated[int, typer.Option(help="Seed of random weights.", min=0)] = 0,
    auto_precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Lower the precision while the device is busier than this share, such as 0.8; "
            "MODEL=0.8 for one model. May be repeated.",
            metavar="[MODEL=]SHARE",
        ),
    ] = None,
    openai: Annotated[
        int | None,
        typer.Option(
            help="Also serve OpenAI's HTTP interface for the first model that generates, through "
            f"the gateway 'smg'; without a port on {OPENAI_PORT}.",
            metavar="[PORT]",
        ),
    ] = None,
    catalog: CatalogOption = None,
    log_level: Annotated[LogLevel, typer.Option(help="Least important level to log.")] = (
        LogLevel.INFO
    ),
    log_format: Annotated[
        LogFormat, typer.Option(help="auto is text on a terminal and JSON elsewhere.")
    ] = LogFormat.AUTO,
) -> None:
    """Serve a pipeline on this machine until Ctrl-C: prepares its models first if needed.

    Each model gets one instance; weights of the pipeline become shares of device time.
    """
    with _terminated_by_exception():
        from deepseek import _local
        from deepseek.cli import _ready

        known = read_catalog(catalog)
        chosen = _choose(files_of([file] if file else None, None)[0], pipeline, known)
        options = _local.ServeOptions(
            host=host,
            grpc_port=grpc_port,
            http_port=http_port,
            log_format=log_format.value,
            log_level=log_level.value,
            random_weights=weights is Weights.RANDOM,
            seed=seed,
            auto_precision=tuple(auto_precision or ()),
            openai_port=openai,
        )
        models, errors = _local.local_models(chosen, catalog=known, options=options)
        if errors:
            for error in errors:
                show_error(error)
            raise typer.Exit(exit_code(errors[0]))
        _local.check_ports(options)
        bundles = _prepare(models)
    announce = _ready.Announcement(chosen.metadata.name, models)
    with _ready.loading([item.model.name for item in models]) as progress:

        def on_ready(report: WorkerReport) -> None:
            progress.end()
            announce(report, openai=_local.openai_address(report, options))

        code = _local.serve(
            models, bundles, options=options, on_ready=on_ready, on_loading=progress.show
        )
    sys.exit(FAILED if announce.all_failed else code)


def _choose(file: str, name: str | None, catalog: Catalog) -> ModelPipeline:
    """The one pipeline to serve.

    Raises:
        ConfigurationError: the file holds several and none was chosen, or it has not that one.
    """
    found = {}
    for loaded in read_pipelines(file, catalog):
        show_problems(loaded.warnings, label="warning: ")
        found[loaded.pipeline.metadata.name] = loaded.pipeline
    if name is not None and name not in found:
        raise ConfigurationError(
            f"The file has no pipeline '{name}'.",
            hint=did_you_mean(name, found) or f"It has {', '.join(found)}.",
        )
    if name is None and len(found) > 1:
        raise ConfigurationError(
            f"The file holds {len(found)} pipelines, and one can be served at a time.",
            hint=f"Choose with --pipeline: {', '.join(found)}.",
        )
    return found[name] if name is not None else next(iter(found.values()))


def _prepare(models: list[LocalModel]) -> dict[str, Path]:
    """Bundles of all models by name; those that are missing are prepared, one after the other."""
    from deepseek._locate import ensure_bundle
    from deepseek.cli._progress import preparing

    bundles = {}
    for item in models:
        name = item.model.name
        with preparing(name) as on_event:
            bundle = ensure_bundle(item.wanted, on_event=on_event)
        if not bundle.cached:
            note(f"{name}: prepared; the next start takes it from the cache.")
        bundles[name] = bundle.path
    return bundles


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """Let SIGTERM unwind the stack while models are prepared, so that no child is left behind."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
