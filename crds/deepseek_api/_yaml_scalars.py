"""What a plain YAML word means, as the Kubernetes tools read it.

Why it exists: kubectl reads YAML 1.1 through a Go library whose rules differ from PyYAML's: ``y``
is true, ``1:30`` and dates are text, ``010`` is eight. A file must mean the same here. Only the
YAML reader of this package uses this module.
"""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = ["NotANumberError", "Scalar", "key_text", "resolve_plain", "resolve_tagged"]

Scalar = str | int | float | bool | None

_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(
        ("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True
    ),
    **dict.fromkeys(
        ("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False
    ),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
}
_NOT_FINITE: Final = frozenset(
    sign + word
    for sign in ("", "+", "-")
    for word in (".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN")
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INTEGER = re.compile(
    r"(?P<sign>[-+]?)(0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)|0[oO]?(?P<oct>[0-7]+)"
    r"|(?P<dec>0|[1-9][0-9]*))"
)
_MAX_DIGITS: Final = 40
"""Longer numbers are read as floats, whatever they look like: they fit no integer field."""


class NotANumberError(ValueError):
    """``.nan`` or ``.inf``: YAML knows them, JSON and the API server do not."""


def resolve_plain(text: str) -> Scalar:
    """The value of a word without quotes.

    Raises:
        NotANumberError: the word is not a number that JSON can hold.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text in _NOT_FINITE:
        raise NotANumberError(text)
    if text[0] in "+-.0123456789":
        number = _number(text.replace("_", "") if text[0] != "." else text)
        if number is not None:
            return number
    return text


def resolve_tagged(tag: str, text: str) -> Scalar:
    """The value of a word with one of YAML's own tags, such as ``!!str``.

    Args:
        tag: the part after ``tag:yaml.org,2002:``.
        text: the word.

    Raises:
        ValueError: the word is not of that kind, or the tag is not supported.
    """
    if tag == "str":
        return text
    value = resolve_plain(text)
    kinds: dict[str, type | tuple[type, ...]] = {
        "bool": bool,
        "int": int,
        "float": (int, float),
        "null": type(None),
    }
    if (
        tag not in kinds
        or not isinstance(value, kinds[tag])
        or (isinstance(value, bool) and tag != "bool")
    ):
        raise ValueError(tag)
    return value


def _number(text: str) -> int | float | None:
    integer = _INTEGER.fullmatch(text) if len(text) <= _MAX_DIGITS else None
    if integer is not None:
        parts = integer.groupdict()
        bases = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}
        value = next(int(parts[name], base) for name, base in bases.items() if parts[name])
        return -value if parts["sign"] == "-" else value
    if _FLOAT.fullmatch(text) is None:
        return None
    number = float(text)
    if math.isinf(number):
        return None  # too large even for a float: kubectl leaves it as text
    # JSON has one kind of number: the server sees 2.0 as 2.
    return int(number) if number.is_integer() and abs(number) < 1e21 else number


def key_text(value: Scalar) -> str | None:
    """A key as JSON has it, always text; None: not possible."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
