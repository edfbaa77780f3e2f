"""A cluster in memory for tests of the reconciler: the protocol, and nothing of HTTP.

Server-side apply is modelled as far as the operator depends on it: objects are merged, a uid is a
precondition, and ``spec.replicas`` of a Deployment knows its managers and falls to 1 when the last
one lets go.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from deepseek_operator.cluster import ClusterError, Conflict, Key, Snapshot, controller_of
from deepseek_operator.labels import PIPELINE
from deepseek_operator.observed import K8sObject, ObjectKey, Observed

__all__ = ["Call", "FakeCluster"]


@dataclass(frozen=True)
class Call:
    """A change that was asked for."""

    action: str
    """``apply``, ``delete``, ``status`` or ``event``."""
    kind: str
    """Kind of the object."""
    name: str
    """Its name."""
    manager: str = ""
    """The field manager of an apply."""


@dataclass
class FakeCluster:
    """Objects of one namespace."""

    pipelines: dict[str, K8sObject] = field(default_factory=dict)
    objects: dict[ObjectKey, K8sObject] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    events: list[K8sObject] = field(default_factory=list)
    failures: dict[tuple[str, str], ClusterError] = field(default_factory=dict)
    """By action and kind: what such a request ends with."""
    refused: dict[str, str] = field(default_factory=dict)
    """Kinds that must not be listed."""
    replicas_seen: list[int] = field(default_factory=list)
    """``spec.replicas`` of Deployments after every apply."""
    pods: list[K8sObject] = field(default_factory=list)
    """Pods of every pipeline."""
    spare: dict[str, int] = field(default_factory=dict)
    """Unused devices by resource name."""
    counts: list[float] = field(default_factory=list)
    """How old each count of devices might be that was asked for."""
    _uids: Any = field(default_factory=lambda: itertools.count(1))

    def put(self, kind: str, name: str, **fields: Any) -> K8sObject:
        """Put an object there, as somebody else would."""
        metadata = {"name": name, "namespace": "default", "uid": f"uid-{next(self._uids)}"}
        metadata |= fields.pop("metadata", {})
        item = {"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields}
        self.objects[kind, name] = item
        return item

    def put_pipeline(self, manifest: Mapping[str, Any]) -> K8sObject:
        """Create or change a pipeline; its generation grows."""
        item: K8sObject = copy.deepcopy(dict(manifest))
        name = item["metadata"]["name"]
        old = self.pipelines.get(name, {"metadata": {"generation": 0}})
        item["metadata"] |= {
            "namespace": "default",
            "uid": old["metadata"].get("uid") or f"uid-{next(self._uids)}",
            "generation": old["metadata"]["generation"] + 1,
        }
        if "status" in old:
            item["status"] = old["status"]
        self.pipelines[name] = item
        return item

    def changes(self, *actions: str) -> list[Call]:
        """The calls of these actions, in order."""
        return [call for call in self.calls if call.action in actions]

    async def get_pipeline(self, namespace: str, name: str) -> K8sObject | None:
        self._fail("get", "ModelPipeline")
        return copy.deepcopy(self.pipelines.get(name))

    async def list_pipelines(self) -> list[Key]:
        return [("default", name) for name in self.pipelines]

    async def observe(self, pipeline: K8sObject, *, needed: Iterable[ObjectKey]) -> Snapshot:
        uid, name = pipeline["metadata"]["uid"], pipeline["metadata"]["name"]
        children, strangers = {}, {}
        for key, item in copy.deepcopy(self.objects).items():
            labelled = (item["metadata"].get("labels") or {}).get(PIPELINE) == name
            own = (controller_of(item) or {}).get("uid") == uid
            if own and key[0] not in self.refused and (labelled or key in needed):
                children[key] = item
            elif not own and key in needed:
                strangers[key] = item
        observed = Observed(
            pipeline=pipeline,
            children=children,
            strangers=strangers,
            autoscalers=tuple(
                item for (kind, _), item in self.objects.items() if kind.startswith("Horizontal")
            ),
            pods=tuple(self.pods),
        )
        return Snapshot(observed=observed, refused=self.refused)

    async def spare_devices(
        self, resources: AbstractSet[str], *, max_age_s: float
    ) -> Mapping[str, int]:
        self.counts.append(max_age_s)
        return {name: self.spare.get(name, 0) for name in resources}

    async def find(self, namespace: str, keys: Iterable[ObjectKey]) -> dict[ObjectKey, K8sObject]:
        return {key: copy.deepcopy(self.objects[key]) for key in keys if key in self.objects}

    async def apply(self, body: K8sObject, *, manager: str, uid: str | None) -> K8sObject:
        key = body["kind"], body["metadata"]["name"]
        self.calls.append(Call("apply", *key, manager=manager))
        self._fail("apply", body["kind"])
        live = self.objects.get(key)
        if uid is not None and (live is None or live["metadata"]["uid"] != uid):
            raise Conflict("the uid differs")
        if uid is None and live is not None:
            raise Conflict("it exists by now")
        if live is None:
            live = self.put(*key)
        managers = set(live["metadata"].get("replicasOwners", ()))
        merged = _merged(live, body)
        if body["kind"] == "Deployment":
            self._own_replicas(merged, body, managers, manager)
        self.objects[key] = merged
        return copy.deepcopy(merged)

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        self.calls.append(Call("delete", kind, name))
        self._fail("delete", kind)
        live = self.objects.get((kind, name))
        if live is not None and live["metadata"]["uid"] != uid:
            raise Conflict("the uid differs")
        self.objects.pop((kind, name), None)

    async def patch_status(self, pipeline: K8sObject, patch: Mapping[str, object]) -> None:
        name = pipeline["metadata"]["name"]
        self.calls.append(Call("status", "ModelPipeline", name))
        self._fail("status", "ModelPipeline")
        status = {**self.pipelines[name].get("status", {}), **patch}
        self.pipelines[name]["status"] = {k: v for k, v in status.items() if v is not None}

    async def create_event(self, event: K8sObject) -> None:
        self._fail("event", "Event")
        self.events.append(event)

    def _own_replicas(
        self, item: K8sObject, body: K8sObject, managers: set[str], manager: str
    ) -> None:
        if "replicas" in body.get("spec", {}):
            managers.add(manager)
        elif manager in managers:
            managers.discard(manager)
            if not managers:
                item["spec"]["replicas"] = 1
        item["spec"].setdefault("replicas", 1)
        item["metadata"]["replicasOwners"] = sorted(managers)
        fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
        item["metadata"]["managedFields"] = [
            {"manager": name, "operation": "Apply", "fieldsV1": fields} for name in sorted(managers)
        ]
        self.replicas_seen.append(item["spec"]["replicas"])

    def _fail(self, action: str, kind: str) -> None:
        if error := self.failures.get((action, kind)):
            raise error


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [*old, *(name for name in new if name not in old)]
        return {
            name: _merged(old.get(name), new[name]) if name in new else old[name] for name in names
        }
    return copy.deepcopy(new)
