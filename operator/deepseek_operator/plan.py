"""What was decided for one pipeline: the values that pass between the deciding modules.

Why it exists: `resolve`, `scaling`, `render` and `status` agree on these types and import nothing
else of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from deepseek_api.allocation import Allocation
from deepseek_api.catalog import CatalogEntry
from deepseek_api.v1alpha1.conditions import ConditionReason, ConditionType
from deepseek_api.v1alpha1.model import Model
from deepseek_api.vocabulary import DeviceKind

__all__ = [
    "RAW_SCHEMES",
    "AutoscalerBounds",
    "Finding",
    "ModelScale",
    "RenderedModel",
    "ResolvedModel",
    "ScalingPlan",
]


RAW_SCHEMES: Final = frozenset({"hf", "s3", "pip", "random"})
"""Schemes of sources that hold weights and not a bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a person must know; it becomes (part of) a condition."""

    condition: ConditionType
    """The condition that it belongs to."""
    reason: ConditionReason
    """The stable word."""
    message: str
    """What is wrong and what to do, sentences."""
    model: str | None = None
    """The model that it is about; None: the whole pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model of the spec with everything filled in that comes from catalog and settings."""

    spec: Model
    """The model as the user wrote it."""
    type: str | None
    """Model type, from the spec or the catalog."""
    task: str | None
    """What the model does, from the spec or the catalog; None: the bundle says it."""
    device: DeviceKind
    """Kind of device, after the default."""
    gpus: int
    """Devices of one replica; 0 on ``cpu``."""
    source_uri: str | None
    """Where the weights come from; None: nobody says so, see ``findings``."""
    source_revision: str | None
    """Revision of the source."""
    digest: str | None
    """Digest that the bundle must have; None: any."""
    secret_name: str | None
    """Secret with the credentials of the source."""
    image: str | None
    """Worker image by device and task; None: there is none for the device, see ``findings``."""
    memory_request: str | None
    """Memory to request, from the catalog."""
    deployment: str
    """Name of its Deployment, its Service and its autoscaler."""
    entry: CatalogEntry | None = None
    """The catalog's entry of its name; preparing a raw source needs it."""
    findings: tuple[Finding, ...] = ()
    """Why it cannot be served, if it cannot."""

    @property
    def raw(self) -> bool:
        """Whether the source must be prepared before it can be served."""
        return self.source_uri is not None and self.source_uri.partition("://")[0] in RAW_SCHEMES

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.spec.name

    @property
    def servable(self) -> bool:
        """Whether a Deployment can be rendered for it."""
        return self.source_uri is not None and self.image is not None and not self.findings


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalerBounds:
    """The bounds of the autoscaler that the operator owns."""

    minimum: int
    """``minReplicas``."""
    maximum: int
    """``maxReplicas``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScale:
    """How the replicas of one model are to be written."""

    model: str
    """Name of the model."""
    replicas: int | None
    """``spec.replicas`` under the operator's own field manager; None: the field is left out."""
    handover: int | None = None
    """``spec.replicas`` to apply with the handover field manager before anything else."""
    autoscaler: AutoscalerBounds | None = None
    """Bounds of the operator's autoscaler; None: it must not exist."""
    max_surge: int = 1
    """``maxSurge`` of the rolling update; ``maxUnavailable`` is 1 when it is 0, otherwise 0."""
    target: int = 0
    """Replicas that the grant leads to once everything has moved, for status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPlan:
    """The scale of every model of a pipeline, and how it came about."""

    allocation: Allocation
    """What the arithmetic granted."""
    scales: Mapping[str, ModelScale]
    """By model."""
    moving: bool = False
    """Whether a model waits for replicas that another one still holds."""
    findings: tuple[Finding, ...] = ()
    """ScalingConflict, MetricsAvailable and the like."""
    pending_demand: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Demands that have not held long enough: model to (demand, monotonic time when first seen).
    The caller hands them back on the next pass."""
    requeue_after_s: float | None = None
    """Look again after this many seconds, because time alone will change the outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedModel:
    """What was rendered for one model, as far as status needs it."""

    template_hash: str
    """Value of the template-hash label of its current pods."""
    image: str
    """The worker image that is pinned."""
    worker_config: Mapping[str, Any]
    """``worker.json``."""
