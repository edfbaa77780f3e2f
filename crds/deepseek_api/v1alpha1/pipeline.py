"""The ModelPipeline itself.

Why it exists: this is the root type, the one that files hold and the API server stores. It checks
the rules of ``rules.py`` after the schema, as the API server does.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from deepseek_api.base import WireModel
from deepseek_api.v1alpha1.fields import list_map, unique_by
from deepseek_api.v1alpha1.metadata import ObjectMeta
from deepseek_api.v1alpha1.model import Model
from deepseek_api.v1alpha1.rules import violations
from deepseek_api.v1alpha1.scheduler import Scheduler
from deepseek_api.v1alpha1.status import ModelPipelineStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "VERSION",
    "ModelPipeline",
    "ModelPipelineSpec",
    "Placement",
]

GROUP: Final = "deepseek.ai"
"""API group of a ModelPipeline."""
VERSION: Final = "v1alpha1"
"""Version of the types of this package."""
API_VERSION: Final = "deepseek.ai/v1alpha1"
"""What a file writes as ``apiVersion``."""
KIND: Final = "ModelPipeline"
"""What a file writes as ``kind``."""


class Placement(enum.StrEnum):
    """Which models share a process."""

    PER_MODEL = "PerModel"
    """Every model has workers of its own."""
    SHARED = "Shared"
    """Every worker serves all models; not available in this release."""


class ModelPipelineSpec(WireModel):
    """What the user wants."""

    models: Annotated[
        tuple[Model, ...],
        Field(min_length=1, max_length=64, json_schema_extra=list_map("name")),
        AfterValidator(unique_by(lambda model: model.name, "name")),
    ]
    """The models, 1 to 64, each with its own name."""
    placement: Placement = Placement.PER_MODEL
    """``PerModel``: every model has workers of its own. ``Shared`` (all models in every worker)
    is not available in this release."""
    scheduler: Scheduler = Scheduler()
    """How the models share replicas or GPUs."""


class ModelPipeline(WireModel):
    """A set of models that are served together and share a budget by priority."""

    api_version: Literal["deepseek.ai/v1alpha1"] = API_VERSION
    """Always ``deepseek.ai/v1alpha1``."""
    kind: Literal["ModelPipeline"] = KIND
    """Always ``ModelPipeline``."""
    metadata: ObjectMeta
    """Name and labels."""
    spec: ModelPipelineSpec
    """What the user wants."""
    status: ModelPipelineStatus | None = None
    """What the operator found and decided; never written by users."""

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        # One error that carries all violations: pydantic allows only one from here, and a user
        # wants to see every problem at once.
        found = violations(self)
        if found:
            text = "; ".join(f"{item.path}: {item.message} {item.hint}" for item in found)
            raise PydanticCustomError("rules", "{text}", {"text": text, "violations": tuple(found)})
        return self
