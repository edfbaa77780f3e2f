"""The command line: ``deepseek COMMAND``; one module a command.

Why it exists: everything that the SDK, the local runner and prepare can do, for people at a prompt
and for scripts. Import nothing from here but :func:`main`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["main"]


def main() -> None:
    """Run the command line; never shows a traceback unless ``--debug`` was given."""
    # Imported here, so that importing the package stays cheap.
    from deepseek.cli import _commands

    run(lambda: _commands.app(prog_name="deepseek"))


def run(program: Callable[[], object]) -> None:
    """Run a program; a defect of it becomes a sentence, unless ``--debug`` was given."""
    from deepseek.cli._errors import FAILED, show_unexpected

    try:
        program()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        show_unexpected(error)
        sys.exit(FAILED)
