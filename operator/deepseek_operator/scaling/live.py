"""What the cluster holds for one model, as far as scaling reads it.

Why it exists: Deployments, autoscalers and pods are open dicts; the few facts that decide are read
here once, with the defaults of the API server, and the rules work with numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from deepseek_operator import labels
from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.plan import ResolvedModel

__all__ = [
    "LiveModel",
    "goes_on_replacing",
    "live_surge",
    "mapping",
    "model_of",
    "owns_replicas",
    "replaces_pods",
    "replicas_of",
    "rolls_out",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveModel:
    """A model and its objects."""

    model: ResolvedModel
    """The model."""
    deployment: K8sObject | None
    """Its Deployment, if the pipeline has one."""
    autoscaler: K8sObject | None
    """The operator's own autoscaler."""
    taken: bool
    """Whether somebody else has a Deployment of the needed name."""
    pods: tuple[K8sObject, ...]
    """Its pods, those that end included."""

    @classmethod
    def of(cls, model: ResolvedModel, observed: Observed) -> Self:
        """Pick the objects of a model out of a snapshot."""
        name = model.deployment
        return cls(
            model=model,
            deployment=observed.child("Deployment", name),
            autoscaler=observed.child("HorizontalPodAutoscaler", name),
            taken=("Deployment", name) in observed.strangers,
            pods=tuple(pod for pod in observed.pods if model_of(pod) == model.name),
        )

    @property
    def replicas(self) -> int:
        """``spec.replicas`` of the Deployment, 0 without one."""
        return replicas_of(self.deployment)

    @property
    def released(self) -> bool:
        """Whether the operator's main field manager leaves ``spec.replicas`` to others."""
        return self.deployment is None or not owns_replicas(self.deployment, labels.MANAGER)

    @property
    def untouched(self) -> bool:
        """Whether nobody has ever written ``spec.replicas`` of the Deployment."""
        if self.deployment is None:
            return True
        return self.autoscaler is None and not any(_replica_entries(self.deployment))


def owns_replicas(deployment: K8sObject, manager: str) -> bool:
    """Whether a field manager owns ``spec.replicas`` by server-side apply.

    Args:
        deployment: the Deployment with its ``managedFields``.
        manager: the name of the field manager.
    """
    return any(
        entry.get("manager") == manager and entry.get("operation") == "Apply"
        for entry in _replica_entries(deployment)
    )


def replicas_of(deployment: K8sObject | None) -> int:
    """``spec.replicas``, 0 for no Deployment."""
    if deployment is None:
        return 0
    count = mapping(deployment.get("spec")).get("replicas")
    return 1 if count is None else int(count)


def live_surge(deployment: K8sObject) -> int:
    """``maxSurge`` of the live rolling update as 0 or 1; any share of the replicas counts as 1."""
    strategy = mapping(mapping(deployment.get("spec")).get("strategy"))
    surge = mapping(strategy.get("rollingUpdate")).get("maxSurge", 0)
    return 0 if str(surge) in ("0", "0%") else 1


def rolls_out(deployment: K8sObject) -> bool:
    """Whether pods of an old template may be there, or new ones are still missing."""
    status = mapping(deployment.get("status"))
    wanted = replicas_of(deployment)
    return (
        _unseen(deployment)
        or int(status.get("updatedReplicas") or 0) < wanted
        or int(status.get("replicas") or 0) > wanted
    )


def replaces_pods(deployment: K8sObject) -> bool:
    """Whether pods of an old template are there, so that one more may start at any moment."""
    status = mapping(deployment.get("status"))
    existing = int(status.get("replicas") or 0)
    return _unseen(deployment) or int(status.get("updatedReplicas") or 0) < existing


def goes_on_replacing(deployment: K8sObject) -> bool:
    """Whether a rollout has all its replicas and pods of an old template among them."""
    status = mapping(deployment.get("status"))
    updated, existing = int(status.get("updatedReplicas") or 0), int(status.get("replicas") or 0)
    return not _unseen(deployment) and updated < replicas_of(deployment) <= existing


def model_of(item: K8sObject) -> str | None:
    """The model that an object belongs to by its label."""
    name = mapping(item["metadata"].get("labels")).get(labels.MODEL)
    return None if name is None else str(name)


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, or an empty mapping when it is absent or null."""
    return value if isinstance(value, Mapping) else {}


def _unseen(deployment: K8sObject) -> bool:
    generation = int(deployment["metadata"].get("generation") or 0)
    return int(mapping(deployment.get("status")).get("observedGeneration") or 0) < generation


def _replica_entries(deployment: K8sObject) -> Iterator[Mapping[str, Any]]:
    for entry in deployment["metadata"].get("managedFields") or ():
        spec = mapping(mapping(entry.get("fieldsV1")).get("f:spec"))
        if "f:replicas" in spec:
            yield entry
