"""Condition types and reasons of a ModelPipeline: one list, documented and stable.

Why it exists: people wait on types (``kubectl wait --for=condition=Ready``) and alerts match
reasons, so both are API. Add words here, never change or remove one.
"""

from __future__ import annotations

import enum

__all__ = ["ConditionReason", "ConditionStatus", "ConditionType"]


class ConditionStatus(enum.StrEnum):
    """The value of a condition."""

    TRUE = "True"
    """The condition holds."""
    FALSE = "False"
    """The condition does not hold."""
    UNKNOWN = "Unknown"
    """The operator cannot tell."""


class ConditionType(enum.StrEnum):
    """What a condition is about."""

    READY = "Ready"
    """Every model has its granted replicas of the current template ready; a replica is ready
    after a real inference through its own socket."""
    PROGRESSING = "Progressing"
    """Something is still being started, moved or replaced."""
    DEGRADED = "Degraded"
    """Something failed and does not get better by waiting."""
    BUDGET_SUFFICIENT = "BudgetSufficient"
    """The budget covers the floor of every model."""
    WEIGHTS_EFFECTIVE = "WeightsEffective"
    """The priority weights decide who gets what."""
    SCALING_CONFLICT = "ScalingConflict"
    """Somebody else's autoscaler acts on a model of the pipeline."""
    METRICS_AVAILABLE = "MetricsAvailable"
    """The autoscalers have all their metrics."""
    NAME_CONFLICT = "NameConflict"
    """An object of a needed name belongs to somebody else and is left alone."""
    DEVICE_UNAVAILABLE = "DeviceUnavailable"
    """A model asks for a device that this installation cannot give."""
    CHILD_REJECTED = "ChildRejected"
    """The API server refused an object that the pipeline needs; the message is the server's."""


class ConditionReason(enum.StrEnum):
    """Why a condition has its value."""

    ALL_REPLICAS_READY = "AllReplicasReady"
    """Ready: all granted replicas are ready."""
    REPLICAS_NOT_READY = "ReplicasNotReady"
    """Ready: some granted replicas are not ready yet."""
    NO_REPLICAS = "NoReplicas"
    """Ready: no model wants a replica."""
    STARTING = "Starting"
    """Progressing: replicas start and load their model."""
    ROLLING_OUT = "RollingOut"
    """Progressing: replicas of an old template are being replaced."""
    MOVING = "Moving"
    """Progressing: replicas move from one model to another under the budget."""
    SETTLED = "Settled"
    """Progressing: nothing is left to do."""
    AS_EXPECTED = "AsExpected"
    """Degraded: nothing failed."""
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    """Degraded: an image cannot be pulled."""
    UNSCHEDULABLE = "Unschedulable"
    """Degraded: no node has room or the wanted device."""
    OUT_OF_MEMORY = "OutOfMemory"
    """Degraded: a replica was ended for using more memory than its limit."""
    CRASH_LOOP = "CrashLoop"
    """Degraded: a replica ends again and again."""
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    """Degraded: the weights cannot be fetched or read."""
    BUNDLE_INVALID = "BundleInvalid"
    """Degraded: the bundle is damaged or has another digest."""
    MODEL_UNKNOWN = "ModelUnknown"
    """Degraded: the model has no source and the catalog does not know its name."""
    FLOORS_FIT = "FloorsFit"
    """BudgetSufficient: every floor is met."""
    FLOORS_EXCEED_BUDGET = "FloorsExceedBudget"
    """BudgetSufficient: the floors together need more than the budget."""
    NO_BUDGET = "NoBudget"
    """BudgetSufficient, WeightsEffective: there is no budget, so everybody gets its demand."""
    WEIGHTS_APPLIED = "WeightsApplied"
    """WeightsEffective: the weights share out the budget."""
    STATIC_POLICY = "StaticPolicy"
    """WeightsEffective: the policy is ``static``."""
    RULE_WITHOUT_MODEL = "RuleWithoutModel"
    """WeightsEffective: a rule names a type that no model has; the other rules apply."""
    FOREIGN_AUTOSCALER = "ForeignAutoscaler"
    """ScalingConflict: an autoscaler of somebody else targets a model."""
    NO_CONFLICT = "NoConflict"
    """ScalingConflict, NameConflict: nobody else is in the way."""
    METRICS_COMPLETE = "MetricsComplete"
    """MetricsAvailable: every metric has a value."""
    METRIC_MISSING = "MetricMissing"
    """MetricsAvailable: a metric has no value; the demand is held."""
    NOT_AUTOSCALED = "NotAutoscaled"
    """MetricsAvailable: no model is autoscaled."""
    FOREIGN_OBJECT = "ForeignObject"
    """NameConflict: an object of that name exists and is not the pipeline's."""
    NO_IMAGE_FOR_DEVICE = "NoImageForDevice"
    """DeviceUnavailable: the operator's values name no image for the device."""
    GPUS_MISMATCH = "GpusMismatch"
    """DeviceUnavailable: ``gpus`` differs from tensor times pipeline parallelism on the default
    device."""
    DEVICE_AVAILABLE = "DeviceAvailable"
    """DeviceUnavailable: every model has its device."""
    REJECTED_BY_SERVER = "RejectedByServer"
    """ChildRejected: the API server refused an object."""
    ACCEPTED = "Accepted"
    """ChildRejected: the API server took every object."""
