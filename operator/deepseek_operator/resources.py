"""Where the API server keeps each kind that the operator touches.

Why it exists: paths, the watches and the permissions of the chart are read off this one table, so
that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from deepseek_api.v1alpha1.pipeline import API_VERSION

from deepseek_operator.observed import CHILD_KINDS

__all__ = ["RESOURCES", "WATCHED_KINDS", "Resource", "collection_path", "object_path"]


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as the API server serves it."""

    api_version: str
    """Group and version, or only the version in the core group."""
    plural: str
    """Name in paths and in rules of roles."""

    @property
    def group(self) -> str:
        """The API group; empty: the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version."""
        return self.api_version.rpartition("/")[2]

    @property
    def api(self) -> str:
        """Path of the group and version."""
        return f"/{'apis' if self.group else 'api'}/{self.api_version}"


RESOURCES: Final[Mapping[str, Resource]] = MappingProxyType(
    {
        "ModelPipeline": Resource(API_VERSION, "modelpipelines"),
        "ServiceAccount": Resource("v1", "serviceaccounts"),
        "ConfigMap": Resource("v1", "configmaps"),
        "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
        "Service": Resource("v1", "services"),
        "Deployment": Resource("apps/v1", "deployments"),
        "HorizontalPodAutoscaler": Resource("autoscaling/v2", "horizontalpodautoscalers"),
        "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
        "Pod": Resource("v1", "pods"),
        "Node": Resource("v1", "nodes"),
        "Event": Resource("events.k8s.io/v1", "events"),
        "CoreEvent": Resource("v1", "events"),
    }
)
"""By kind; ``CoreEvent`` is the older form of an Event."""

WATCHED_KINDS: Final[tuple[str, ...]] = ("ModelPipeline", *CHILD_KINDS, "Pod")
"""Kinds whose changes lead to a reconcile."""


def collection_path(kind: str, namespace: str | None) -> str:
    """Path of all objects of a kind, in one namespace or (None) in the whole cluster."""
    resource = RESOURCES[kind]
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{resource.api}{where}/{resource.plural}"


def object_path(kind: str, namespace: str | None, name: str | None = None) -> str:
    """Path of one object, or of all of them without a name."""
    path = collection_path(kind, namespace)
    return f"{path}/{name}" if name else path
