"""The application object of the command line, and how it fails.

Why it exists: a command raises the project's exceptions; this group turns them into a sentence
and an exit code, the same for every command. With ``--debug`` they pass through as tracebacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from deepseek_api.errors import DeepseekError
from typer.core import TyperCommand, TyperGroup

from deepseek import __version__
from deepseek.cli._errors import INTERRUPTED, exit_code, show_error


def _as_sentence(run: Callable[[], Any], *, debug: bool) -> Any:
    """Run a command; a failure is printed and becomes an exit code."""
    try:
        return run()
    except DeepseekError as error:
        if debug:
            raise
        show_error(error)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


ORDER = (
    "doctor",
    "models",
    "validate",
    "plan",
    "prepare",
    "quantize",
    "serve",
    "infer",
    "generate",
    "explain",
    "rollout",
    "cache",
)
"""Commands as ``--help`` lists them: in the order in which a newcomer needs them."""


class Group(TyperGroup):
    """A command group whose failures are sentences."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, in the order of `ORDER`; others come last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda n: ORDER.index(n) if n in ORDER else len(ORDER))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        debug = bool(ctx.find_root().params.get("debug"))
        return _as_sentence(lambda: super(Group, self).invoke(ctx), debug=debug)


class Command(TyperCommand):
    """A single command whose failures are sentences."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        debug = bool(ctx.params.get("debug"))
        return _as_sentence(lambda: super(Command, self).invoke(ctx), debug=debug)


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deepseek {__version__}")
        raise typer.Exit()


@app.callback(
    epilog="Start with: deepseek doctor, then: deepseek serve -f examples/quickstart.yaml"
)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of failures.")] = False,
) -> None:
    """Serve several quantized models from one ModelPipeline file, and call them over gRPC."""
