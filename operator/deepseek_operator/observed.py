"""What the cluster holds for one pipeline at one moment: the input of everything that decides.

Why it exists: decisions are pure functions of this snapshot, so they can be tested as tables and
repeated. Objects are dicts as the API server sends them. Reading them is `kube`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CHILD_KINDS", "K8sObject", "ObjectKey", "Observed"]

K8sObject = dict[str, Any]
"""An object in wire form."""
ObjectKey = tuple[str, str]
"""Kind and name, for example ``("Deployment", "nlp-bert")``; the namespace is the pipeline's."""

CHILD_KINDS: tuple[str, ...] = (
    "ServiceAccount",
    "ConfigMap",
    "NetworkPolicy",
    "Service",
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
)
"""Kinds that the operator creates, in the order in which it applies them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A snapshot."""

    pipeline: K8sObject
    """The ModelPipeline itself."""
    children: Mapping[ObjectKey, K8sObject]
    """Objects whose controller is this pipeline (by uid)."""
    strangers: Mapping[ObjectKey, K8sObject] = field(default_factory=dict)
    """Objects of a name that the pipeline needs, controlled by somebody else or by nobody."""
    autoscalers: tuple[K8sObject, ...] = ()
    """Every HorizontalPodAutoscaler of the namespace, whoever owns it."""
    pods: tuple[K8sObject, ...] = ()
    """Pods of the pipeline, by label."""
    events: tuple[K8sObject, ...] = ()
    """Recent warning Events about those of the pods that are not ready; may be incomplete."""
    spare_devices: Mapping[str, int] | None = None
    """Unused devices of the cluster by resource name (``nvidia.com/gpu``): the most that one node
    has left; empty when the operator may not look at nodes. None: they were not counted, because
    nothing is decided by them."""

    @property
    def uid(self) -> str:
        """Uid of the pipeline."""
        return str(self.pipeline["metadata"]["uid"])

    def child(self, kind: str, name: str) -> K8sObject | None:
        """The pipeline's own object of this kind and name, or None."""
        return self.children.get((kind, name))
