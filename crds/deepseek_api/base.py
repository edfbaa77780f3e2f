"""The base of every data type of this package: camelCase outside, snake_case inside, immutable.

Why it exists: YAML and JSON files are read by people and by the Kubernetes API server, whose
habits are camelCase and strict types; Python code wants snake_case. One configuration decides
both. Do not use it for settings of a program: those are frozen dataclasses.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Strict
from pydantic.alias_generators import to_camel

__all__ = ["Bool", "Float", "Int", "WireModel"]

# Pydantic's lax mode takes "2", 2.0 and True for the number 2. The API server does not, and a
# file must mean the same in both places.
Int = Annotated[int, Strict()]
"""A whole number; strings and booleans are refused."""
Float = Annotated[float, Strict()]
"""A number; strings and booleans are refused."""
Bool = Annotated[bool, Strict()]
"""true or false; numbers and strings are refused."""


class WireModel(BaseModel):
    """Base class of the types that are written to and read from files."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,
    )

    def to_wire(self) -> dict[str, Any]:
        """The value as it is written to JSON or YAML: camelCase, absent values left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
