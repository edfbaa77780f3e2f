"""Failures as a person at a prompt should see them, and as exit codes for scripts.

Exit codes: 0 success; 1 something failed; 2 what was typed or the file is wrong; 130 interrupted.
"""

from __future__ import annotations

from deepseek_api.errors import (
    AllocationError,
    CatalogError,
    ConfigurationError,
    DeepseekError,
    InvalidPipelineError,
    PrecisionError,
    Problem,
)

from deepseek.cli._console import note, plural

FAILED = 1
USAGE = 2
INTERRUPTED = 130

_WRONG_INPUT = (
    AllocationError,
    CatalogError,
    ConfigurationError,
    InvalidPipelineError,
    PrecisionError,
)


def exit_code(error: DeepseekError) -> int:
    """The exit code of a failure."""
    return USAGE if isinstance(error, _WRONG_INPUT) else FAILED


def show_error(error: DeepseekError) -> None:
    """Print a failure: what is wrong, then what to do."""
    if isinstance(error, InvalidPipelineError):
        show_problems(error.problems)
        note(f"Error: {plural(len(error.problems), 'problem')} found.", style="red")
        return
    note(f"Error: {error.message}", style="red")
    if error.hint:
        note(f"  {error.hint}")


def show_problems(problems: tuple[Problem, ...], *, label: str = "") -> None:
    """Print problems of a file, one place a line and the advice below it."""
    for problem in problems:
        where = f"{problem.location}: " + (f"{problem.path}: " if problem.path else "")
        note(f"{where}{label}{problem.message}")
        if problem.hint:
            note(f"    {problem.hint}")


def show_unexpected(error: Exception) -> None:
    """Print a defect of this program."""
    note(f"Error: unexpected {type(error).__name__}: {error}", style="red")
    note("  This is a defect. Run the command again as 'deepseek --debug ...' to see where.")
