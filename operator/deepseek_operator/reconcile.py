"""One look at one pipeline: from what is to what should be.

Why it exists: this is the only place where the pure stages and the cluster meet. It is
level-triggered: a run depends on what the cluster holds. The only memory are the demands that have
not held long enough yet, and what is needed to find a pipeline by one of its Deployments.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from deepseek_api.catalog import Catalog
from deepseek_api.v1alpha1.pipeline import API_VERSION, KIND, ModelPipeline
from pydantic import ValidationError

from deepseek_operator import events, labels, resolve, scaling, status
from deepseek_operator.applying import Applied, apply_objects
from deepseek_operator.cluster import (
    Cluster,
    ClusterError,
    Conflict,
    Key,
    NotFound,
    Snapshot,
    Throttled,
    Unavailable,
)
from deepseek_operator.config import OperatorConfig
from deepseek_operator.events import PipelineEvent
from deepseek_operator.metrics import Metrics
from deepseek_operator.observed import K8sObject
from deepseek_operator.plan import ResolvedModel, ScalingPlan
from deepseek_operator.render import render, replaced
from deepseek_operator.workqueue import Outcome

__all__ = ["Clock", "Reconciler", "event_object", "merge_patch"]

_log = logging.getLogger(__name__)
_BLOCKED_RETRY_S: Final = 30.0
_SOONEST_S: Final = 2.0
"""Shortest wait for the next look at a pipeline whose replicas are missing."""
_SOON_S: Final = 5.0
"""Longest such wait in the first minutes in which only Events may tell a cause."""
_LATEST_S: Final = 30.0
"""Longest such wait at all; it is there for an event that got lost."""
_CROWD_S: Final = 0.2
"""Time between two looks for Events, if many pipelines need them at the same time."""
_METADATA: Final = ("name", "namespace", "labels", "annotations", "uid", "generation")


@dataclass(frozen=True, slots=True)
class Clock:
    """Time."""

    monotonic: Callable[[], float]
    """Seconds that never go back."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    """Time of day with its zone."""

    def wall(self) -> str:
        """Time of day as the API server writes it."""
        return self.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class _Memory:
    """What is remembered of a pipeline between two runs."""

    pending: Mapping[str, tuple[int, float]]
    deployments: frozenset[str] = frozenset()
    ready: str = "Unknown"
    set_up: bool = False
    """Whether a replica is being set up on its node."""
    changed: float = 0.0
    """When the status changed last, as far as this process knows; monotonic seconds."""


class Reconciler:
    """Makes the cluster agree with pipelines, one run at a time for each.

    Args:
        cluster: the API server.
        config: settings of the installation.
        catalog: gives the current catalog.
        clock: time.
        metrics: where runs are counted.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        config: OperatorConfig,
        catalog: Callable[[], Catalog],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._cluster = cluster
        self._config = config
        self._catalog = catalog
        self._clock = clock
        self._metrics = metrics
        self._memory: dict[Key, _Memory] = {}
        self._limiter = events.EventLimiter(clock.monotonic)

    def pipeline_of(self, namespace: str, deployment: str) -> Key | None:
        """The pipeline that needs a Deployment of this name, as far as it was seen before."""
        for key, memory in self._memory.items():
            if key[0] == namespace and deployment in memory.deployments:
                return key
        return None

    async def reconcile(self, key: Key) -> Outcome:
        """Look at one pipeline and change what has to change; never raises."""
        started = self._clock.monotonic()
        extra = {"namespace": key[0], "pipeline": key[1]}
        try:
            result, outcome = await self._run(key)
        except Throttled as error:
            _log.warning("the API server asks for patience: %s", error, extra=extra)
            result, outcome = "retry", Outcome(failed=True, hold_s=error.retry_after_s)
        except (Conflict, Unavailable) as error:
            _log.warning("the reconcile is tried again: %s", error, extra=extra)
            result, outcome = "retry", Outcome(failed=True)
        except ClusterError as error:
            _log.error("the API server refused: %s", error, extra=extra)
            result, outcome = "error", Outcome(failed=True)
        except Exception:
            _log.exception("the reconcile failed", extra=extra)
            result, outcome = "error", Outcome(failed=True)
        self._metrics.reconciles.labels(result=result).inc()
        self._metrics.duration.observe(self._clock.monotonic() - started)
        return outcome

    async def _run(self, key: Key) -> tuple[str, Outcome]:
        raw = await self._cluster.get_pipeline(*key)
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return "gone", Outcome()
        try:
            pipeline = _parse(raw)
        except ValidationError as error:
            # The server accepted it under other rules. What runs is left as it is.
            await self._refuse(raw, str(error))
            return "invalid", Outcome()
        memory = self._memory.setdefault(key, _Memory({}, changed=self._clock.monotonic()))
        catalog = self._catalog()
        models = resolve.resolve(pipeline, config=self._config, catalog=catalog)
        memory.deployments = frozenset(model.deployment for model in models)
        snapshot = await self._cluster.observe(
            raw,
            needed=[("Deployment", name) for name in sorted(memory.deployments)],
        )
        snapshot = await self._with_devices(snapshot, models)
        plan = scaling.plan(
            pipeline,
            models=models,
            observed=snapshot.observed,
            config=self._config,
            catalog=catalog,
            now=self._clock.monotonic(),
            wall=self._clock.wall(),
            pending=memory.pending,
        )
        memory.pending = plan.pending_demand
        rendered = render(
            pipeline, models=models, plan=plan, observed=snapshot.observed, config=self._config
        )
        applied = await apply_objects(
            self._cluster,
            snapshot,
            objects=rendered.objects,
            scales=plan.scales,
            metrics=self._metrics,
        )
        built = status.build(
            pipeline,
            models=models,
            plan=plan,
            rendered=rendered,
            observed=applied.observed,
            findings=(*rendered.findings, *applied.findings),
            previous=raw.get("status"),
            wall=self._clock.wall(),
            config=self._config,
        )
        if await self._report(raw, built, events.transitions(raw.get("status"), built, pipeline)):
            memory.changed = self._clock.monotonic()
        memory.ready = _readiness(built)
        memory.set_up = any(_is_set_up(pod) for pod in applied.observed.pods)
        self._count_pipelines()
        return ("retry" if applied.retry else "ok"), self._next(plan, applied, memory)

    async def _with_devices(self, snapshot: Snapshot, models: Sequence[ResolvedModel]) -> Snapshot:
        """Count spare devices if something is decided by them now."""
        observed, config = snapshot.observed, self._config
        users = [model for model in models if model.gpus]
        age = scaling.device_count_age(
            users,
            observed=observed,
            config=config,
            replaced=replaced(users, observed=observed, config=config),
        )
        if age is None:
            return snapshot
        names = frozenset(config.device_resources.values())
        spare = await self._cluster.spare_devices(names, max_age_s=age)
        return replace(snapshot, observed=replace(observed, spare_devices=spare))

    async def _refuse(self, raw: K8sObject, text: str) -> None:
        previous = raw.get("status")
        built = status.invalid(raw, text=text, previous=previous, wall=self._clock.wall())
        await self._report(raw, built, events.invalid(raw, text))

    async def _report(
        self, raw: K8sObject, built: Mapping[str, Any], happened: Iterable[PipelineEvent]
    ) -> bool:
        """Write what changed of the status, and then tell about it; gives whether it changed."""
        patch = merge_patch(raw.get("status") or {}, built)
        if not patch:
            return False
        try:
            await self._cluster.patch_status(raw, patch)
        except NotFound as error:
            _log.info("the pipeline was deleted meanwhile: %s", error)
            return False
        await self._announce(raw, happened)
        return True

    async def _announce(self, pipeline: K8sObject, happened: Iterable[PipelineEvent]) -> None:
        uid = pipeline["metadata"]["uid"]
        for event in happened:
            if not self._limiter.allow(uid, event):
                continue
            try:
                await self._cluster.create_event(event_object(pipeline, event, self._clock.now()))
            except ClusterError as error:
                # An Event tells what status says already.
                _log.warning("an Event was not created: %s", error)

    def _next(self, plan: ScalingPlan, applied: Applied, memory: _Memory) -> Outcome:
        waits = [plan.requeue_after_s] if plan.requeue_after_s is not None else []
        if applied.findings:
            # What is in the way belongs to somebody else, and nobody tells when it goes.
            waits.append(_BLOCKED_RETRY_S)
        if memory.ready != "True":
            waits.append(self._patience(memory))
        return Outcome(failed=applied.retry, requeue_after_s=min(waits, default=None))

    def _patience(self, memory: _Memory) -> float:
        """How long to wait for replicas before the next look, seconds.

        It grows with the time in which nothing changed and not with the number of looks: every
        event of a pod is a look.
        """
        quiet = self._clock.monotonic() - memory.changed
        if not memory.set_up:
            return min(max(_SOONEST_S, quiet / 2), _LATEST_S)
        # Why a volume cannot be mounted shows only in Events, which are not watched.
        soon = min(max(_SOONEST_S, quiet / 10), _SOON_S)
        crowd = sum(one.set_up for one in self._memory.values())
        return min(max(soon, quiet / 60, _CROWD_S * crowd), _LATEST_S)

    def _forget(self, key: Key) -> None:
        self._memory.pop(key, None)
        self._count_pipelines()

    def _count_pipelines(self) -> None:
        counts = Counter(memory.ready for memory in self._memory.values())
        for ready in ("True", "False", "Unknown"):
            self._metrics.pipelines.labels(ready=ready).set(counts[ready])


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What a JSON merge patch must hold to make the one the other; empty: they are equal."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            if inner := merge_patch(before, value):
                patch[name] = inner
        elif name not in old or before != value:
            patch[name] = value
    return patch


def event_object(pipeline: K8sObject, event: PipelineEvent, when: datetime) -> K8sObject:
    """An Event of a pipeline in wire form, with a name that does not come twice."""
    metadata = pipeline["metadata"]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}",
            "namespace": metadata["namespace"],
        },
        "eventTime": when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": event.type,
        "reason": event.reason,
        "note": event.note,
        "action": "Reconcile",
        "reportingController": labels.OPERATOR_NAME,
        "reportingInstance": os.environ.get("HOSTNAME") or labels.OPERATOR_NAME,
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }


def _is_set_up(pod: K8sObject) -> bool:
    """Whether the kubelet has the pod and has not started all of its containers."""
    placed = pod.get("spec", {}).get("nodeName")
    return bool(placed) and pod.get("status", {}).get("phase") == "Pending"


def _readiness(built: Mapping[str, Any]) -> str:
    conditions = built.get("conditions") or ()
    return next((item["status"] for item in conditions if item["type"] == "Ready"), "Unknown")


def _parse(raw: K8sObject) -> ModelPipeline:
    metadata = {name: raw["metadata"][name] for name in _METADATA if name in raw["metadata"]}
    return ModelPipeline.model_validate(
        {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": raw["spec"]},
        by_alias=True,
        by_name=False,
    )
