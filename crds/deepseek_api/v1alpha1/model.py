"""One model of a pipeline: what it is, where it comes from and what it needs.

Why it exists: this is the part of a ModelPipeline that users write most. Defaults that depend on
the catalog or on the cluster are not schema defaults: an absent field stays absent.
"""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import AfterValidator, Field

from deepseek_api.base import Int, WireModel
from deepseek_api.v1alpha1.autoscaling import Autoscaling
from deepseek_api.v1alpha1.fields import (
    Digest,
    DnsLabel,
    DnsSubdomain,
    ModelType,
    OpenObject,
    Quantity,
    ReplicaCount,
    ShortText,
    Task,
    list_map,
    unique_by,
)
from deepseek_api.v1alpha1.generation import Adapter, Generation
from deepseek_api.vocabulary import SOURCE_URI_PATTERN, DeviceKind, Precision

__all__ = [
    "Batching",
    "KvCacheFormat",
    "Model",
    "Parallelism",
    "Quantization",
    "Resources",
    "Rollout",
    "RolloutStrategy",
    "Source",
]


class Source(WireModel):
    """Where the weights of a model come from."""

    uri: Annotated[str, Field(pattern=SOURCE_URI_PATTERN, max_length=2048)]
    """``oci://REF`` (an image that holds a bundle), ``pvc://CLAIM/PATH``, ``file://PATH``,
    ``hf://ORGANIZATION/NAME``, ``s3://BUCKET/PATH``, ``pip://PACKAGE`` or
    ``random://ARCHITECTURE``."""
    revision: ShortText | None = None
    """Commit, tag or package version of the source."""
    digest: Digest | None = None
    """Digest of the bundle's manifest; a bundle of another digest is refused. An image is pinned
    by ``oci://REF@sha256:...`` besides."""
    secret_name: DnsSubdomain | None = None
    """Secret with the credentials of the source, in the namespace of the pipeline."""


class KvCacheFormat(enum.StrEnum):
    """Number format of the attention cache of a generating model."""

    AUTO = "auto"
    """The format of the model's arithmetic."""
    FP16 = "fp16"
    """16-bit floating point."""
    BF16 = "bf16"
    """16-bit floating point with the range of fp32."""
    FP8 = "fp8"
    """8-bit floating point."""
    INT8 = "int8"
    """8-bit integers."""


class Quantization(WireModel):
    """Refines ``precision``."""

    scheme: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$", max_length=63)] | None = None
    """Name of a quantization scheme; absent: the best one for the precision."""
    group_size: Int | None = Field(default=None, ge=1, le=1024)
    """Weights that share a scale."""
    kv_cache: KvCacheFormat | None = None
    """Number format of the attention cache."""


class Parallelism(WireModel):
    """How one replica is divided over several devices; on ``cpu``, over processes."""

    tensor: Int = Field(default=1, ge=1, le=64)
    """Parts that each layer is cut into."""
    pipeline: Int = Field(default=1, ge=1, le=64)
    """Stages that the layers are divided into."""


class Resources(WireModel):
    """Requests and limits of the worker container, as Kubernetes takes them."""

    requests: Annotated[dict[str, Quantity], Field(max_length=32)] | None = None
    """What a replica reserves. Default: ``cpu: 250m`` and the memory of the catalog."""
    limits: Annotated[dict[str, Quantity], Field(max_length=32)] | None = None
    """What a replica may use at most."""


class Batching(WireModel):
    """How requests are put together."""

    max_batch_size: Int | None = Field(default=None, ge=1, le=4096)
    """The most samples that are executed together. Default: 32."""
    latency_target_ms: Int | None = Field(default=None, ge=1, le=600_000)
    """The latency that batching must not endanger, milliseconds."""
    max_queue_size: Int | None = Field(default=None, ge=1, le=1_000_000)
    """The most samples that wait; more are refused with UNAVAILABLE and a time to retry after."""


class RolloutStrategy(enum.StrEnum):
    """How replicas are replaced."""

    AUTO = "Auto"
    """A new replica first where budget and devices allow it, otherwise an old one goes first."""


class Rollout(WireModel):
    """How the replicas of a model are replaced when its template changes."""

    strategy: RolloutStrategy = RolloutStrategy.AUTO
    """``Auto``: a new replica starts first where the budget and a spare device allow it;
    otherwise an old one goes first."""


class Model(WireModel):
    """One model of a pipeline."""

    name: DnsLabel
    """Name of the model, unique in the pipeline; also the catalog entry that it defaults to."""
    type: ModelType | None = None
    """Model type for the priority rules: ``NLP``, ``CV``, ``LLM``, ``Audio``, ``Multimodal``,
    ``Recommender`` or your own. Default: the catalog's."""
    task: Task | None = None
    """What the model does, for example ``text-embedding``, ``image-classification``,
    ``generate`` or ``tensors``. Default: the catalog's or the bundle's."""
    replicas: ReplicaCount | None = None
    """Wanted replicas. Default: 1, or ``minReplicas`` under autoscaling."""
    source: Source | None = None
    """Where the weights come from. Default: the catalog entry of this name."""
    precision: Precision = Precision.AUTO
    """Number format. ``auto`` takes the fastest measured variant within the agreement bound;
    status says which."""
    quantization: Quantization | None = None
    """Refines ``precision``."""
    device: DeviceKind | None = None
    """Kind of device. Default: the operator's default device, which is ``cpu``. ``rocm`` and
    ``npu`` need an image that the operator's values name."""
    gpus: Int | None = Field(default=None, ge=0, le=4096)
    """GPUs of one replica; the product of ``parallelism``. Default: that product, 0 on
    ``cpu``."""
    parallelism: Parallelism | None = None
    """How one replica is divided over devices. Default: not divided."""
    resources: Resources | None = None
    """Requests and limits of the worker container."""
    batching: Batching | None = None
    """How requests are put together."""
    generation: Generation | None = None
    """Limits of a model whose task is ``generate``."""
    adapters: (
        Annotated[
            tuple[Adapter, ...],
            Field(max_length=64, json_schema_extra=list_map("name")),
            AfterValidator(unique_by(lambda item: item.name, "name")),
        ]
        | None
    ) = None
    """LoRA adapters of a model whose task is ``generate``; a request names the one that it
    wants. Default: none."""
    autoscaling: Autoscaling | None = None
    """Bounds and metrics of an autoscaler. Default: a fixed number of replicas."""
    rollout: Rollout | None = None
    """How replicas are replaced."""
    pod_template: OpenObject | None = None
    """Overlay for the pod template, merged last: containers, environment and volumes by name,
    mounts by path."""

    @property
    def wanted(self) -> int:
        """Wanted replicas with the default applied: 1, or ``minReplicas`` under autoscaling."""
        if self.replicas is not None:
            return self.replicas
        return self.autoscaling.min_replicas if self.autoscaling is not None else 1

    @property
    def devices_per_replica(self) -> int:
        """Tensor times pipeline parallelism."""
        return self.parallelism.tensor * self.parallelism.pipeline if self.parallelism else 1
