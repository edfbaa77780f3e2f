"""Making the cluster's objects what was rendered.

Why it exists: the order of the requests is what keeps a single writer on ``spec.replicas`` and
keeps other people's objects safe; it is decided here and nowhere else. What to write is decided by
`render`; whether something differs by `drift`.

The order for one pipeline: own autoscalers that must go, then for every object the handover of its
replicas and the object itself, then what is left over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from deepseek_api.v1alpha1.conditions import ConditionReason, ConditionType

from deepseek_operator import labels
from deepseek_operator.cluster import (
    Cluster,
    ClusterError,
    Conflict,
    Rejected,
    ServerFault,
    Snapshot,
    controller_of,
)
from deepseek_operator.drift import differs
from deepseek_operator.metrics import Metrics
from deepseek_operator.observed import K8sObject, ObjectKey, Observed
from deepseek_operator.plan import Finding, ModelScale

__all__ = ["Applied", "apply_objects"]

_log = logging.getLogger(__name__)
_AUTOSCALER: Final = "HorizontalPodAutoscaler"
_SCALES: Final = frozenset({"Deployment", _AUTOSCALER})
_SCALED: Final = _SCALES | {"Pod"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """How the cluster looks afterwards, and what did not work."""

    observed: Observed
    """The snapshot with the changes of this pass in it."""
    findings: tuple[Finding, ...]
    """Refusals and name conflicts."""
    retry: bool
    """Whether something failed that may work soon."""


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One pass over the objects of a pipeline."""

    cluster: Cluster
    metrics: Metrics
    namespace: str
    children: dict[ObjectKey, K8sObject]
    strangers: dict[ObjectKey, K8sObject]
    refused: dict[str, str]
    findings: list[Finding] = field(default_factory=list)
    retry: bool = False
    blocked_models: set[str] = field(default_factory=set)

    async def apply(self, desired: K8sObject, *, handover: int | None) -> None:
        key = _key(desired)
        if key in self.strangers:
            self.findings.append(_name_conflict(desired, self.strangers[key]))
            return
        if _model(desired) in self.blocked_models and desired["kind"] == "Deployment":
            return
        if (
            handover is not None
            and key in self.children
            and not await self._send(_handover(desired, handover), "handover")
        ):
            # Releasing the replicas without it would drop them to one.
            return
        live = self.children.get(key)
        if live is None or differs(desired, live):
            await self._send(desired, "apply")
        if handover is not None and live is None and key in self.children:
            await self._send(_handover(desired, handover), "handover")

    async def delete(self, key: ObjectKey) -> bool:
        live = self.children[key]
        kind, name = key
        try:
            await self.cluster.delete(kind, self.namespace, name, uid=live["metadata"]["uid"])
        except ClusterError as error:
            self._failed(live, "delete", error)
            return False
        self._count(kind, "delete", "ok")
        del self.children[key]
        return True

    async def _send(self, body: K8sObject, action: str) -> bool:
        key = _key(body)
        live = self.children.get(key)
        uid = live["metadata"]["uid"] if live is not None else None
        manager = labels.HANDOVER_MANAGER if action == "handover" else labels.MANAGER
        try:
            self.children[key] = await self.cluster.apply(body, manager=manager, uid=uid)
        except ClusterError as error:
            self._failed(body if live is None else live, action, error)
            return False
        self._count(body["kind"], action, "ok")
        return True

    def _failed(self, item: K8sObject, action: str, error: ClusterError) -> None:
        kind, name = _key(item)
        refused = isinstance(error, Rejected | ServerFault)
        self._count(kind, action, "refused" if refused else "failed")
        _log.warning(
            "a change was not made: %s",
            error,
            extra={"kind": kind, "child": name, "namespace": self.namespace, "action": action},
        )
        if refused:
            self.findings.append(_rejection(item, str(error)))
        if isinstance(error, Conflict | ServerFault):
            self.retry = True
        elif not refused:
            # The server does not answer or wants less: the other objects would only wait, too.
            raise error

    def _count(self, kind: str, action: str, result: str) -> None:
        self.metrics.requests.labels(kind=kind, action=action, result=result).inc()


async def apply_objects(
    cluster: Cluster,
    snapshot: Snapshot,
    *,
    objects: Sequence[K8sObject],
    scales: Mapping[str, ModelScale],
    metrics: Metrics,
) -> Applied:
    """Apply what differs and delete what is left over.

    Args:
        cluster: where.
        snapshot: what is there.
        objects: what has to be there, in the order of applying.
        scales: handovers of replicas, by model.
        metrics: where requests are counted.

    Raises:
        Unavailable: the server does not answer, or asks for patience.
    """
    observed = snapshot.observed
    namespace = observed.pipeline["metadata"]["namespace"]
    wanted = {_key(item): item for item in objects}
    work = _Pass(
        cluster=cluster,
        metrics=metrics,
        namespace=namespace,
        children=dict(observed.children),
        strangers=dict(observed.strangers),
        refused=dict(snapshot.refused),
    )
    await _find_the_rest(cluster, work, observed, wanted)
    # Who cannot see replicas, pods or autoscalers must not move replicas: it would look as if there
    # were none.
    blind = work.refused.keys() & _SCALED
    hidden = work.refused.keys() | (_SCALES if blind else frozenset())
    leftovers = [key for key in work.children if key not in wanted and key[0] not in hidden]
    for key in [key for key in leftovers if key[0] == _AUTOSCALER]:
        model = _model(work.children[key])
        if not await work.delete(key) and model:
            # Two writers of the replicas would fight.
            work.blocked_models.add(model)
    for item in objects:
        if item["kind"] in hidden:
            continue
        scale = scales.get(_model(item) or "") if item["kind"] == "Deployment" else None
        await work.apply(item, handover=scale.handover if scale else None)
    for key in [key for key in leftovers if key[0] != _AUTOSCALER]:
        await work.delete(key)
    for kind, text in work.refused.items():
        work.findings.append(_unreadable(kind, text))
    return Applied(
        observed=_after(observed, work),
        findings=tuple(work.findings),
        retry=work.retry,
    )


async def _find_the_rest(
    cluster: Cluster, work: _Pass, observed: Observed, wanted: dict[ObjectKey, K8sObject]
) -> None:
    # Whose object it is must be known before the first apply. What appears after this look is a
    # conflict then, and found at the next one.
    unknown = [
        key
        for key in wanted
        if key not in work.children and key not in work.strangers and key[0] not in work.refused
    ]
    for key, item in (await cluster.find(work.namespace, unknown)).items():
        own = (controller_of(item) or {}).get("uid") == observed.uid
        (work.children if own else work.strangers)[key] = item


def _after(observed: Observed, work: _Pass) -> Observed:
    own = {name for kind, name in observed.children if kind == _AUTOSCALER}
    foreign = [item for item in observed.autoscalers if item["metadata"]["name"] not in own]
    mine = [item for (kind, _), item in work.children.items() if kind == _AUTOSCALER]
    return replace(
        observed,
        children=work.children,
        strangers=work.strangers,
        autoscalers=(*foreign, *mine),
    )


def _handover(desired: K8sObject, replicas: int) -> K8sObject:
    metadata = desired["metadata"]
    return {
        "apiVersion": desired["apiVersion"],
        "kind": desired["kind"],
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": {"replicas": replicas},
    }


def _key(item: K8sObject) -> ObjectKey:
    return item["kind"], item["metadata"]["name"]


def _model(item: K8sObject) -> str | None:
    found: str | None = (item["metadata"].get("labels") or {}).get(labels.MODEL)
    return found


def _rejection(item: K8sObject, text: str) -> Finding:
    kind, name = _key(item)
    return Finding(
        condition=ConditionType.CHILD_REJECTED,
        reason=ConditionReason.REJECTED_BY_SERVER,
        message=f"The API server refused {kind} '{name}': {text}",
        model=_model(item),
    )


def _unreadable(kind: str, text: str) -> Finding:
    return Finding(
        condition=ConditionType.CHILD_REJECTED,
        reason=ConditionReason.REJECTED_BY_SERVER,
        message=(
            f"The operator may not list objects of kind {kind}, so it leaves them as they are: "
            f"{text} Give its service account the permissions of the chart."
        ),
    )


def _name_conflict(desired: K8sObject, stranger: K8sObject) -> Finding:
    kind, name = _key(desired)
    owner = controller_of(stranger)
    whose = f"{owner['kind']} '{owner['name']}'" if owner else "nobody"
    return Finding(
        condition=ConditionType.NAME_CONFLICT,
        reason=ConditionReason.FOREIGN_OBJECT,
        message=(
            f"{kind} '{name}' exists already and is controlled by {whose}, so it is left alone. "
            "Delete or rename it, or rename the pipeline or the model."
        ),
        model=_model(desired),
    )
