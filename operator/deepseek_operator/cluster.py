"""What the operator needs from a cluster, and how that can fail.

Why it exists: the reconciler and its tests depend on this small interface; `kube` implements it
with HTTP requests and is the only place that knows about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from deepseek_operator.observed import K8sObject, ObjectKey, Observed

__all__ = [
    "Cluster",
    "ClusterError",
    "Conflict",
    "Key",
    "NotFound",
    "Rejected",
    "ServerFault",
    "Snapshot",
    "Throttled",
    "Unauthorized",
    "Unavailable",
    "controller_of",
]

Key = tuple[str, str]
"""Namespace and name of a pipeline."""


class ClusterError(Exception):
    """A request to the API server failed; the text is the server's own where there is one."""


class Conflict(ClusterError):
    """The object changed or was replaced meanwhile: look again and decide anew."""


class Rejected(ClusterError):
    """The server understood and refused: a rule, a quota or a missing permission.

    The same request will be refused again.
    """


class NotFound(Rejected):
    """The object, or what it lies in, does not exist."""


class Unavailable(ClusterError):
    """The server cannot answer now."""


class Unauthorized(Unavailable):
    """The server does not accept the credentials.

    While the operator runs this passes: they rotate, and who checks them may be down.
    """


class ServerFault(Unavailable):
    """The server failed at this request, as it does when an admission webhook does not answer.

    Other requests may well work.
    """


class Throttled(Unavailable):
    """The server asks for patience.

    Attributes:
        retry_after_s: seconds to wait.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was seen, and what could not be seen."""

    observed: Observed
    """What the cluster holds."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Kinds that the operator was not allowed to list, with the server's text. Nothing is known
    about objects of these kinds."""


class Cluster(Protocol):
    """The API server as the reconciler sees it. Every method may raise a `ClusterError`."""

    async def get_pipeline(self, namespace: str, name: str) -> K8sObject | None:
        """The pipeline, or None when there is none."""

    async def list_pipelines(self) -> list[Key]:
        """Keys of all pipelines that this installation is responsible for."""

    async def observe(self, pipeline: K8sObject, *, needed: Iterable[ObjectKey]) -> Snapshot:
        """Everything that one pipeline's decisions depend on, but for spare devices.

        Args:
            pipeline: the pipeline as the server sent it.
            needed: objects to look for by name when they are not among those with its label.
        """

    async def spare_devices(
        self, resources: AbstractSet[str], *, max_age_s: float
    ) -> Mapping[str, int]:
        """The most devices that one node has left, by resource name.

        Args:
            resources: names of the resources that count.
            max_age_s: how old the count may be, seconds; 0: it begins now.

        Returns:
            Nothing when the operator may not look at nodes.
        """

    async def find(self, namespace: str, keys: Iterable[ObjectKey]) -> dict[ObjectKey, K8sObject]:
        """Those of the objects that exist, whoever owns them."""

    async def apply(self, body: K8sObject, *, manager: str, uid: str | None) -> K8sObject:
        """Server-side apply with force.

        Args:
            body: the whole intent of this field manager.
            manager: the field manager.
            uid: uid of the object that is meant; None: it did not exist when it was looked for.

        Returns:
            The object as it is now.

        Raises:
            Conflict: there is another object of this name, or there is one by now.
        """

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        """Delete the object of this uid; one that is gone already is no failure."""

    async def patch_status(self, pipeline: K8sObject, patch: Mapping[str, object]) -> None:
        """Merge this into the pipeline's status.

        Raises:
            NotFound: the pipeline is gone.
        """

    async def create_event(self, event: K8sObject) -> None:
        """Create an ``events.k8s.io/v1`` Event."""


def controller_of(item: K8sObject) -> Mapping[str, str] | None:
    """The owner reference of an object's controller, or None."""
    for owner in item.get("metadata", {}).get("ownerReferences") or ():
        if owner.get("controller"):
            reference: Mapping[str, str] = owner
            return reference
    return None
