"""The ``metadata`` of a ModelPipeline, as far as this project reads or checks it.

Why it exists: the API server owns this part; a file is checked for misspelt fields and wrong
types as the server would, and everything the server adds is accepted when an object is read back.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import Field

from deepseek_api.base import Int, WireModel
from deepseek_api.v1alpha1.fields import DnsLabel

__all__ = ["NAME_PATTERN", "ObjectMeta"]

NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""The name of a pipeline: a DNS label that starts with a letter."""
_NAME = re.compile(NAME_PATTERN)


class ObjectMeta(WireModel):
    """Name, namespace and labels of an object, as everywhere in Kubernetes."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the pipeline: a DNS label of at most 63 characters that starts with a letter."""
    namespace: Annotated[DnsLabel, Field(max_length=63)] | None = None
    """Namespace; default: the one of the command or of the cluster's configuration."""
    labels: dict[str, str] | None = None
    """Labels."""
    annotations: dict[str, str] | None = None
    """Annotations."""
    # Written by the server only.
    generate_name: str | None = None
    """Set by the server."""
    self_link: str | None = None
    """Set by the server."""
    uid: str | None = None
    """Set by the server."""
    resource_version: str | None = None
    """Set by the server."""
    generation: Int | None = None
    """Set by the server: counts changes of the spec."""
    creation_timestamp: str | None = None
    """Set by the server."""
    deletion_timestamp: str | None = None
    """Set by the server."""
    deletion_grace_period_seconds: Int | None = None
    """Set by the server."""
    owner_references: tuple[dict[str, Any], ...] | None = None
    """Owners of the object."""
    finalizers: tuple[str, ...] | None = None
    """Finalizers of the object."""
    managed_fields: tuple[dict[str, Any], ...] | None = None
    """Set by the server."""

    @property
    def has_pipeline_name(self) -> bool:
        """Whether the name is one that a pipeline may have."""
        return len(self.name) <= 63 and _NAME.fullmatch(self.name) is not None
