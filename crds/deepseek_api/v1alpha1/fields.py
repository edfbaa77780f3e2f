"""Field types that the ModelPipeline types share, with the limits the API server enforces.

Why it exists: a limit must be the same in Python and in the CRD, so it is written once. Patterns
use only what both Python's ``re`` and the API server's RE2 understand. Nothing here knows a
particular field.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from deepseek_api.base import Int

__all__ = [
    "Digest",
    "DnsLabel",
    "DnsSubdomain",
    "ModelType",
    "OpenObject",
    "Quantity",
    "ReplicaCount",
    "ShortText",
    "Task",
    "Text",
    "list_map",
    "unique_by",
]

MAX_REPLICAS: Final = 1000
"""The most replicas that one model may want."""

DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
"""Lower-case letters, digits and ``-``, at most 40."""
DnsSubdomain = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", max_length=253
    ),
]
"""DNS labels joined by dots, as Kubernetes names its objects."""
ModelType = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,30}$", max_length=31)]
"""A model type: a letter, then letters, digits and ``-``, at most 31."""
Task = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$", max_length=63)]
"""A task: a lower-case letter, then lower-case letters, digits and ``-``, at most 63."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
"""A SHA-256 digest, ``sha256:`` and 64 hexadecimal digits."""
ShortText = Annotated[str, Field(min_length=1, max_length=256)]
"""One to 256 characters."""
Text = Annotated[str, Field(max_length=32768)]
"""Any text up to 32 KiB."""
ReplicaCount = Annotated[Int, Field(ge=0, le=MAX_REPLICAS)]
"""A number of replicas, 0 to 1000."""

QUANTITY_PATTERN: Final = (
    r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
)
"""A Kubernetes quantity such as ``250m``, ``2`` or ``1.5Gi``."""
_QUANTITY = re.compile(QUANTITY_PATTERN)


def _check_quantity(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= 64 and _QUANTITY.fullmatch(value):
        return value
    raise PydanticCustomError(
        "quantity", "is not a Kubernetes quantity", {"number": isinstance(value, float)}
    )


Quantity = Annotated[
    object,
    AfterValidator(_check_quantity),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY_PATTERN,
            "maxLength": 64,
        }
    ),
]
"""An amount of a resource: a whole number, or a string such as ``250m`` or ``1.5Gi``."""

OpenObject = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
"""An object whose fields another API checks; it is passed on untouched."""


def list_map(key: str) -> dict[str, Any]:
    """Schema keywords of a list whose items are told apart by one field."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


ItemT = TypeVar("ItemT")


def unique_by(
    key: Callable[[ItemT], str], name: str
) -> Callable[[tuple[ItemT, ...]], tuple[ItemT, ...]]:
    """A validator that refuses two items of the same key, as a list-map of the CRD does.

    Args:
        key: takes the key out of an item.
        name: the key's field name, for the message.
    """

    def check(items: tuple[ItemT, ...]) -> tuple[ItemT, ...]:
        first: dict[str, int] = {}
        for index, item in enumerate(items):
            value = key(item)
            if value in first:
                context = {"index": index, "key": name, "value": value, "first": first[value]}
                raise PydanticCustomError("duplicate_key", "duplicate key", context)
            first[value] = index
        return items

    return check
