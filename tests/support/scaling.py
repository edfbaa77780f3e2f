"""Snapshots for the tests of scaling: pipelines, Deployments, autoscalers and pods in wire form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deepseek_api.catalog import builtin_catalog
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_api.vocabulary import DeviceKind
from deepseek_operator import labels
from deepseek_operator.config import OperatorConfig
from deepseek_operator.observed import K8sObject, ObjectKey, Observed
from deepseek_operator.plan import Finding, ResolvedModel, ScalingPlan
from deepseek_operator.scaling import plan

PIPELINE = "shop"
WALL = "2026-05-04T10:00:00Z"
CPU_METRIC = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
}


def fixed(name: str, replicas: int = 1, **more: Any) -> dict[str, Any]:
    """A model of the spec with a fixed number of replicas."""
    return {"name": name, "type": name.upper(), "replicas": replicas, **more}


def scaled(name: str, least: int = 1, most: int = 10, **more: Any) -> dict[str, Any]:
    """A model of the spec under an autoscaler."""
    scaling = {"minReplicas": least, "maxReplicas": most}
    return {"name": name, "type": name.upper(), "autoscaling": scaling, **more}


def pipeline(
    *models: Mapping[str, Any],
    weights: Mapping[str, float] | None = None,
    budget: Mapping[str, int] | None = None,
    policy: str = "priority-based",
) -> ModelPipeline:
    """A pipeline; weights are by model name, as every model has a type of its own."""
    scheduler: dict[str, Any] = {
        "policy": policy,
        "priorityRules": [
            {"modelType": name.upper(), "weight": weight}
            for name, weight in (weights or {}).items()
        ],
    }
    if budget is not None:
        scheduler["budget"] = dict(budget)
    return ModelPipeline.model_validate(
        {"metadata": {"name": PIPELINE}, "spec": {"models": list(models), "scheduler": scheduler}}
    )


def deployment(
    name: str,
    replicas: int,
    *,
    owner: str | None = labels.MANAGER,
    operation: str = "Apply",
    surge: int | str = 0,
    gpus: int = 0,
    generation: int = 1,
    status: Mapping[str, int] | None = None,
) -> K8sObject:
    """A Deployment at rest; ``owner`` owns its replicas; ``status`` replaces single counts."""
    counts = {
        "observedGeneration": generation,
        "replicas": replicas,
        "updatedReplicas": replicas,
        **(status or {}),
    }
    managed = [{"manager": labels.MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {}}}]
    if owner is not None:
        fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
        managed.append({"manager": owner, "operation": operation, "fieldsV1": fields})
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "kind": "Deployment",
        "metadata": {
            "name": f"{PIPELINE}-{name}",
            "labels": {labels.MODEL: name},
            "generation": generation,
            "managedFields": managed,
        },
        "spec": {
            "replicas": replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge}},
            "template": {
                "spec": {"containers": [{"name": "worker", "resources": {"limits": limits}}]}
            },
        },
        "status": counts,
    }


def autoscaler(
    name: str,
    *,
    least: int = 1,
    most: int = 10,
    desired: int = 0,
    current: int | None = None,
    at_bound: bool = False,
    metrics: Iterable[Mapping[str, Any]] = (CPU_METRIC,),
    values: Iterable[Mapping[str, Any]] | None = None,
    active: str = "True",
    active_reason: str = "ValidMetricFound",
    message: str = "",
) -> K8sObject:
    """The operator's autoscaler of a model; desired 0: it has not synced yet."""
    status: dict[str, Any] = {"desiredReplicas": desired, "currentMetrics": None}
    if desired or active == "False":
        status = {
            "desiredReplicas": desired,
            "currentReplicas": desired if current is None else current,
            "currentMetrics": None if values is None else [dict(value) for value in values],
            "conditions": [
                {
                    "type": "ScalingActive",
                    "status": active,
                    "reason": active_reason,
                    "message": message,
                },
                {
                    "type": "ScalingLimited",
                    "status": str(at_bound),
                    "reason": "TooManyReplicas" if at_bound else "DesiredWithinRange",
                },
            ],
        }
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{PIPELINE}-{name}"}
    return {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": f"{PIPELINE}-{name}", "labels": {labels.MODEL: name}},
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [dict(metric) for metric in metrics],
        },
        "status": status,
    }


def cpu(utilization: int) -> dict[str, Any]:
    """A current value for `CPU_METRIC`."""
    current = {"averageUtilization": utilization, "averageValue": "100m"}
    return {"type": "Resource", "resource": {"name": "cpu", "current": current}}


def foreign(name: str, *, target: str, owner: tuple[str, str] | None = None) -> K8sObject:
    """An autoscaler of somebody else."""
    owners = [{"kind": owner[0], "name": owner[1], "controller": True}] if owner else []
    return {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "ownerReferences": owners},
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": f"{PIPELINE}-{target}"},
            "maxReplicas": 50,
        },
    }


def pods(
    name: str, running: int = 0, ending: int = 0, *, gpus: int = 0, phase: str = "Running"
) -> list[K8sObject]:
    """Pods of a model."""
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    spec = {"containers": [{"name": "worker", "resources": {"limits": limits}}]}
    found: list[K8sObject] = []
    for number in range(running + ending):
        metadata: dict[str, Any] = {"name": f"{name}-{number}", "labels": {labels.MODEL: name}}
        if number >= running:
            metadata["deletionTimestamp"] = WALL
        found.append({"metadata": metadata, "spec": spec, "status": {"phase": phase}})
    return found


def unschedulable(name: str, *, since: str | None) -> K8sObject:
    """A pod of a model for which no node has room."""
    (pod,) = pods(name, running=1, phase="Pending")
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    if since is not None:
        condition["lastTransitionTime"] = since
    pod["status"]["conditions"] = [condition]
    return pod


def observe(
    *children: K8sObject,
    others: Iterable[K8sObject] = (),
    strangers: Iterable[K8sObject] = (),
    pods: Iterable[K8sObject] = (),
    spare: Mapping[str, int] | None = None,
    previous: Mapping[str, int] | None = None,
) -> Observed:
    """A snapshot; ``previous`` are the demands in status, ``others`` foreign autoscalers."""
    rows = [{"model": name, "demand": demand} for name, demand in (previous or {}).items()]
    own = [item for item in children if item["kind"] == "HorizontalPodAutoscaler"]
    return Observed(
        pipeline={"metadata": {"name": PIPELINE, "uid": "u"}, "status": {"allocation": rows}},
        children={_key(item): item for item in children},
        strangers={_key(item): item for item in strangers},
        autoscalers=(*own, *others),
        pods=tuple(pods),
        spare_devices=spare,
    )


def resolve(
    wanted: ModelPipeline,
    *,
    config: OperatorConfig | None = None,
    unservable: Iterable[str] = (),
    findings: tuple[Finding, ...] = (),
) -> tuple[ResolvedModel, ...]:
    """The models with everything filled in."""
    settings = config or OperatorConfig()
    broken = set(unservable)
    found = []
    for model in wanted.spec.models:
        device = model.device or settings.default_device
        found.append(
            ResolvedModel(
                spec=model,
                type=model.type,
                task=None,
                device=device,
                gpus=0 if device is DeviceKind.CPU else model.devices_per_replica,
                source_uri=None if model.name in broken else "oci://bundle",
                source_revision=None,
                digest=None,
                secret_name=None,
                image="worker",
                memory_request=None,
                deployment=f"{PIPELINE}-{model.name}",
                findings=findings,
            )
        )
    return tuple(found)


def decide(
    wanted: ModelPipeline,
    observed: Observed | None = None,
    *,
    config: OperatorConfig | None = None,
    unservable: Iterable[str] = (),
    now: float = 1000.0,
    wall: str = WALL,
    pending: Mapping[str, tuple[int, float]] | None = None,
) -> ScalingPlan:
    """The plan for a snapshot."""
    settings = config or OperatorConfig()
    return plan(
        wanted,
        models=resolve(wanted, config=settings, unservable=unservable),
        observed=observed or observe(),
        config=settings,
        catalog=builtin_catalog(),
        now=now,
        wall=wall,
        pending=pending or {},
    )


def _key(item: K8sObject) -> ObjectKey:
    return item["kind"], item["metadata"]["name"]
