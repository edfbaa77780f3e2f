"""Version v1alpha1 of the ModelPipeline API, as types."""

from __future__ import annotations

from deepseek_api.v1alpha1.autoscaling import Autoscaling, Metric, MetricType
from deepseek_api.v1alpha1.conditions import ConditionReason, ConditionStatus, ConditionType
from deepseek_api.v1alpha1.generation import (
    Adapter,
    AdapterSource,
    Generation,
    Speculative,
)
from deepseek_api.v1alpha1.metadata import ObjectMeta
from deepseek_api.v1alpha1.model import (
    Batching,
    KvCacheFormat,
    Model,
    Parallelism,
    Quantization,
    Resources,
    Rollout,
    RolloutStrategy,
    Source,
)
from deepseek_api.v1alpha1.pipeline import (
    API_VERSION,
    GROUP,
    KIND,
    VERSION,
    ModelPipeline,
    ModelPipelineSpec,
    Placement,
)
from deepseek_api.v1alpha1.scheduler import Budget, Policy, PriorityRule, Scheduler
from deepseek_api.v1alpha1.status import (
    AllocationStatus,
    Condition,
    ModelPipelineStatus,
    ModelStatus,
)

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "VERSION",
    "Adapter",
    "AdapterSource",
    "AllocationStatus",
    "Autoscaling",
    "Batching",
    "Budget",
    "Condition",
    "ConditionReason",
    "ConditionStatus",
    "ConditionType",
    "Generation",
    "KvCacheFormat",
    "Metric",
    "MetricType",
    "Model",
    "ModelPipeline",
    "ModelPipelineSpec",
    "ModelPipelineStatus",
    "ModelStatus",
    "ObjectMeta",
    "Parallelism",
    "Placement",
    "Policy",
    "PriorityRule",
    "Quantization",
    "Resources",
    "Rollout",
    "RolloutStrategy",
    "Scheduler",
    "Source",
    "Speculative",
]
