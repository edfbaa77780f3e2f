"""Reading the parameters of a request that a task knows; unknown ones are ignored."""

from __future__ import annotations

from collections.abc import Mapping

from deepseek_engine.validation import invalid

__all__ = ["integer"]


def integer(
    parameters: Mapping[str, bool | int | float | str],
    name: str,
    *,
    default: int,
    low: int,
) -> int:
    """An integer parameter.

    Raises:
        InferenceError: INVALID_ARGUMENT; it is of another type, or below ``low``.
    """
    value = parameters.get(name, default)
    # bool is a subclass of int, and true is not a number here.
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(
            f"The parameter '{name}' must be an integer, not {value!r}."[:200],
            reason="InvalidParameter",
        )
    if value < low:
        raise invalid(
            f"The parameter '{name}' is {value}; it must be at least {low}.",
            reason="InvalidParameter",
        )
    return value
