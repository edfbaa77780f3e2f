"""The status of a ModelPipeline: what the operator found and decided.

Why it exists: the operator writes these types and people read them. Everything is optional,
because an old operator must be able to read what a newer one wrote. Exact shares are strings:
binary floating point would change them from one write to the next.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from deepseek_api.base import Bool, Int, WireModel
from deepseek_api.v1alpha1.conditions import ConditionStatus
from deepseek_api.v1alpha1.fields import ShortText, Text, list_map, unique_by

__all__ = ["AllocationStatus", "Condition", "ModelPipelineStatus", "ModelStatus"]

_IGNORE_UNKNOWN = ConfigDict(extra="ignore")

Timestamp = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
"""A time as RFC 3339 text."""
Share = Annotated[str, Field(max_length=32)]
"""An exact number as text, for example ``7`` or ``6.6667``."""


class Condition(WireModel):
    """One observation about the pipeline or about one of its models."""

    model_config = _IGNORE_UNKNOWN

    type: Annotated[str, Field(max_length=316)]
    """What it is about."""
    status: ConditionStatus
    """``True``, ``False`` or ``Unknown``."""
    observed_generation: Int | None = Field(default=None, ge=0)
    """Generation of the pipeline that was looked at."""
    last_transition_time: Timestamp | None = None
    """When ``status`` last changed."""
    reason: Annotated[str, Field(max_length=1024)]
    """A stable word for programs."""
    message: Text = ""
    """A sentence for people."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(max_length=32, json_schema_extra=list_map("type")),
    AfterValidator(unique_by(lambda condition: condition.type, "type")),
]
"""Conditions, one of each type."""


class ModelStatus(WireModel):
    """What the operator knows about one model."""

    model_config = _IGNORE_UNKNOWN

    name: ShortText
    """Name of the model."""
    type: ShortText | None = None
    """Model type, from the spec or the catalog."""
    replicas: Int | None = None
    """Granted replicas."""
    ready_replicas: Int | None = None
    """Replicas of the current template that are ready."""
    endpoint: ShortText | None = None
    """Address of the gRPC service."""
    precision: ShortText | None = None
    """The precision that was chosen."""
    backend: ShortText | None = None
    """The library that executes the model."""
    source: Annotated[str, Field(max_length=2048)] | None = None
    """Where the weights came from."""
    digest: ShortText | None = None
    """Digest of the bundle."""
    random_weights: Bool | None = None
    """Whether the weights are random and the answers mean nothing."""
    worker_image: Annotated[str, Field(max_length=1024)] | None = None
    """The pinned image of the worker."""
    conditions: Conditions = ()
    """Observations about this model alone."""


class AllocationStatus(WireModel):
    """How the replicas of one model were decided; docs/allocation.md explains the words."""

    model_config = _IGNORE_UNKNOWN

    model: ShortText
    """Name of the model."""
    weight: Share | None = None
    """Share of the budget that the rules give it."""
    demand: Int | None = None
    """Replicas that it asks for."""
    floor: Int | None = None
    """Replicas that it gets first."""
    cap: Int | None = None
    """Replicas that it gets at most."""
    entitled: Share | None = None
    """The exact share in replicas."""
    granted: Int | None = None
    """Whole replicas that it gets."""
    limited_by: ShortText | None = None
    """What kept it from more: ``demand``, ``cap``, ``weight``, ``floor`` or ``budget``."""
    last_change: Timestamp | None = None
    """When ``granted`` last changed."""


class ModelPipelineStatus(WireModel):
    """What the operator found and decided."""

    model_config = _IGNORE_UNKNOWN

    conditions: Conditions = ()
    """Observations about the pipeline."""
    observed_generation: Int | None = Field(default=None, ge=0)
    """Generation of the pipeline that this status describes."""
    replicas: ShortText | None = None
    """Ready and granted replicas for display, for example ``3/3``."""
    model_names: Annotated[str, Field(max_length=4096)] | None = None
    """Names of the models for display."""
    models: Annotated[
        tuple[ModelStatus, ...],
        Field(max_length=64, json_schema_extra=list_map("name")),
        AfterValidator(unique_by(lambda model: model.name, "name")),
    ] = ()
    """What the operator knows about each model."""
    allocation: Annotated[
        tuple[AllocationStatus, ...],
        Field(max_length=64, json_schema_extra=list_map("model")),
        AfterValidator(unique_by(lambda row: row.model, "model")),
    ] = ()
    """How the replicas were decided."""
