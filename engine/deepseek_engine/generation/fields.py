"""Reading a hub's ``config.json`` field by field, so that a wrong value is named.

Why it exists: a decoder is built from about thirty fields whose absence, type and range matter, and
a silent default is a model that answers nonsense. It knows JSON and nothing of models; imports no
runtime.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_api.errors import BundleError

__all__ = ["Fields", "read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        BundleError: the file is missing, is not JSON or holds no object.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        what = "is missing" if isinstance(error, OSError) else "is not valid JSON"
        raise BundleError(
            f"The model's '{path.name}' {what}.",
            hint="Prepare or fetch the model again.",
            reason="InvalidConfig",
        ) from error
    if not isinstance(found, dict):
        raise BundleError(
            f"The model's '{path.name}' holds no object.",
            hint="Prepare or fetch the model again.",
            reason="InvalidConfig",
        )
    return found


class Fields:
    """Typed access to the fields of an object; None counts as absent.

    Every method raises a BundleError that names the field when its value is absent and has no
    default, or is not what the method promises.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        """Wrap an object; ``where`` is put before the names of its fields."""
        self._values = values
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def null(self, name: str) -> bool:
        """Whether the field is there and null, which may differ from being absent."""
        return name in self._values and self._values[name] is None

    def raw(self, name: str) -> Any:
        """The value as it is, or None."""
        return self._values.get(name)

    def whole(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number of at least ``least``."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(name, f"a whole number of at least {least}")
        return value

    def number(self, name: str, default: float | None = None, *, positive: bool = True) -> float:
        """A finite number; above 0 unless told otherwise."""
        value = self._get(name, default)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not fits or not math.isfinite(value) or (positive and value <= 0):
            raise self.wrong(name, "a number above 0" if positive else "a number")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def one_of(self, name: str, known: Sequence[str], default: str | None = None) -> str:
        """One of some words."""
        value = self._get(name, default)
        if value not in known:
            raise self.wrong(name, f"one of {', '.join(known)}")
        return str(value)

    def object(self, name: str) -> Fields | None:
        """A nested object, or None."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object")
        return Fields(value, f"{self._where}{name}.")

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse values that would change the result in a way that is not computed here.

        Absent is allowed. A value that differs from all of ``allowed`` is refused.
        """
        value = self._values.get(name)
        if value is not None and not any(
            value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed
        ):
            shown = " or ".join(json.dumps(each) for each in allowed) or "to be absent"
            raise self.wrong(name, shown)

    def wrong(self, name: str, wanted: str) -> BundleError:
        """The error for a field that is not what it has to be."""
        value = self._values.get(name)
        is_ = "is missing" if value is None else f"is {json.dumps(value, default=str)[:80]}"
        return BundleError(
            f"The model's field '{self._where}{name}' {is_}; {wanted} is needed.",
            hint="Use a model of an architecture and setting that this release computes.",
            reason="UnsupportedModel",
        )

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is None and default is None:
            raise self.wrong(name, "a value")
        return default if value is None else value
