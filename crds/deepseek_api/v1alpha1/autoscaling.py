"""Autoscaling of one model: the bounds and metrics of its HorizontalPodAutoscaler.

Why it exists: a user writes what a HorizontalPodAutoscaler of version ``autoscaling/v2`` takes;
this module names only what allocation must know (the bounds) and passes the rest on.
"""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import ConfigDict, Field

from deepseek_api.base import Int, WireModel
from deepseek_api.v1alpha1.fields import MAX_REPLICAS, OpenObject

__all__ = ["Autoscaling", "Metric", "MetricType"]


class MetricType(enum.StrEnum):
    """Where a metric comes from, as the HorizontalPodAutoscaler names it."""

    RESOURCE = "Resource"
    """CPU or memory of the pods."""
    CONTAINER_RESOURCE = "ContainerResource"
    """CPU or memory of one container of the pods."""
    PODS = "Pods"
    """A metric that each pod reports."""
    OBJECT = "Object"
    """A metric of one other object."""
    EXTERNAL = "External"
    """A metric from outside the cluster."""


class Metric(WireModel):
    """One metric, as in ``spec.metrics`` of a HorizontalPodAutoscaler ``autoscaling/v2``.

    Only ``type`` is checked here; the other fields go to the autoscaler untouched.
    """

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )

    type: MetricType
    """Where the metric comes from."""


class Autoscaling(WireModel):
    """How many replicas a model may have, and what decides between the bounds."""

    min_replicas: Int = Field(default=1, ge=1, le=MAX_REPLICAS)
    """The fewest replicas; at least 1, because an autoscaler cannot start from nothing."""
    max_replicas: Int = Field(ge=1, le=MAX_REPLICAS)
    """The most replicas."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=16)] | None = None
    """Metrics of ``autoscaling/v2``, passed on untouched. Default: CPU at 70 % of the request."""
    behavior: OpenObject | None = None
    """Scaling speed of ``autoscaling/v2``, passed on untouched."""
