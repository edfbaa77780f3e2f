"""Quantities of Kubernetes as exact numbers.

Why it exists: autoscalers report metrics as text such as ``250m``; a ratio of two of them must be
exact, because a rounded one could ask for one replica too many.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

__all__ = ["parse_quantity"]

_SUFFIXES: Final[dict[str, Fraction]] = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "": Fraction(1),
    **{suffix: Fraction(1000**power) for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Fraction(1024**power) for power, suffix in enumerate("KMGTPE", start=1)},
}
_FORM: Final = re.compile(
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)(?P<suffix>[a-zA-Z]*)", re.ASCII
)


def parse_quantity(text: object) -> Fraction | None:
    """The number that a quantity stands for, or None if it is none."""
    match = _FORM.fullmatch(str(text))
    if match is None or match["suffix"] not in _SUFFIXES:
        return None
    return Fraction(match["number"]) * _SUFFIXES[match["suffix"]]
