"""Sampling settings by name, as they travel beside tensors.

Why it exists: requests of the Open Inference Protocol and of the SDK carry settings as named
values. Names that are not known here are other protocols' business and are left alone; known ones
are checked by type here and by value in `SamplingParameters`. It must not import a runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from deepseek_api.errors import ErrorCode, InferenceError

from deepseek_engine.generation.requests import Constraint, SamplingParameters

__all__ = ["NAMES", "Value", "sampling_parameters"]

Value = bool | int | float | str


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, value, "a whole number")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, value, "a number")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a string")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """A string, or a JSON list of strings."""
    text = _text(name, value)
    if not text.startswith("["):
        return (text,)
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except msgspec.MsgspecError:
        # A text that only looks like a list is a stop text as it is.
        return (text,)


def _tokens(name: str, value: Any) -> tuple[int, ...]:
    """A token, or a JSON list of tokens."""
    if not isinstance(value, str):
        return (_whole(name, value),)
    try:
        return msgspec.json.decode(value, type=tuple[int, ...])
    except msgspec.MsgspecError:
        raise _wrong(name, value, "a token or a JSON list of tokens, such as [1, 2]") from None


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "max_tokens": _whole,
    "min_tokens": _whole,
    "temperature": _number,
    "top_k": _whole,
    "top_p": _number,
    "min_p": _number,
    "repetition_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "seed": _whole,
    "logprobs": _whole,
    "stop": _texts,
    "stop_token_ids": _tokens,
    "ignore_eos": _flag,
}
_CONSTRAINTS = ("json_schema", "json_object", "regex")

NAMES = (*_READERS, *_CONSTRAINTS, "adapter")
"""Names of parameters that a model that generates knows."""


def sampling_parameters(parameters: Mapping[str, Value]) -> SamplingParameters:
    """Sampling settings from named values.

    Raises:
        InferenceError: INVALID_ARGUMENT, naming the parameter and what it may be.
    """
    given: dict[str, Any] = {
        name: read(name, parameters[name]) for name, read in _READERS.items() if name in parameters
    }
    return SamplingParameters(**given, constraint=_constraint(parameters))


def _constraint(parameters: Mapping[str, Value]) -> Constraint | None:
    asked = [name for name in _CONSTRAINTS if name in parameters]
    if len(asked) > 1:
        raise _invalid(
            f"The parameters {' and '.join(asked)} are given together.", "Use one of them."
        )
    if not asked:
        return None
    (name,) = asked
    if name == "json_object":
        wanted = _flag(name, parameters[name])
        return Constraint(kind="json_object") if wanted else None
    definition = _text(name, parameters[name])
    return Constraint(
        kind="json_schema" if name == "json_schema" else "regex", definition=definition
    )


def _wrong(name: str, value: Any, kind: str) -> InferenceError:
    return _invalid(f"The parameter '{name}' is {str(value)[:80]!r}.", f"It must be {kind}.")


def _invalid(message: str, hint: str) -> InferenceError:
    return InferenceError(
        message, code=ErrorCode.INVALID_ARGUMENT, hint=hint, reason="InvalidParameter"
    )
