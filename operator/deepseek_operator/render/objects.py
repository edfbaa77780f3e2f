"""The objects of a pipeline, one function each.

Why it exists: what the API server shall hold is data; these functions write it and decide nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, Final

from deepseek_operator import labels
from deepseek_operator.names import headless_name, prepare_policy_name, worker_name
from deepseek_operator.observed import K8sObject
from deepseek_operator.plan import AutoscalerBounds, ModelScale, ResolvedModel
from deepseek_operator.render.metadata import child, selector
from deepseek_operator.render.pinning import Pinned
from deepseek_operator.render.worker import GRPC_PORT, HTTP_PORT

__all__ = [
    "autoscaler",
    "config_map",
    "deployment",
    "disruption_budget",
    "headless_service",
    "network_policy",
    "prepare_policy",
    "service",
    "service_account",
]

_CPU_UTILIZATION: Final = 70
_DEFAULT_METRICS: Final = [
    {
        "type": "Resource",
        "resource": {
            "name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": _CPU_UTILIZATION},
        },
    }
]


def service_account(pipeline: K8sObject) -> K8sObject:
    """The account of the workers: it may nothing and has no token."""
    return child(
        pipeline,
        api_version="v1",
        kind="ServiceAccount",
        name=worker_name(pipeline["metadata"]["name"]),
        automountServiceAccountToken=False,
    )


def network_policy(pipeline: K8sObject) -> K8sObject:
    """Who may talk to workers (everybody, on their two ports) and whom they may ask (DNS)."""
    name = pipeline["metadata"]["name"]
    return _policy(
        pipeline,
        name=worker_name(name),
        spec={
            "podSelector": {"matchLabels": {labels.PIPELINE: name}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"ports": [{"port": port, "protocol": "TCP"} for port in (GRPC_PORT, HTTP_PORT)]}
            ],
            "egress": [{"ports": [{"port": 53, "protocol": kind} for kind in ("UDP", "TCP")]}],
        },
    )


def prepare_policy(pipeline: K8sObject, models: Sequence[str]) -> K8sObject:
    """Lets replicas out that fetch their weights themselves.

    Args:
        pipeline: the owner.
        models: their models, at least one.
    """
    name = pipeline["metadata"]["name"]
    return _policy(
        pipeline,
        name=prepare_policy_name(name),
        spec={
            "podSelector": {
                "matchLabels": {labels.PIPELINE: name},
                "matchExpressions": [
                    {"key": labels.MODEL, "operator": "In", "values": sorted(models)}
                ],
            },
            "policyTypes": ["Egress"],
            # One rule that names nothing allows everything.
            "egress": [{}],
        },
    )


def _policy(pipeline: K8sObject, *, name: str, spec: dict[str, Any]) -> K8sObject:
    return child(
        pipeline, api_version="networking.k8s.io/v1", kind="NetworkPolicy", name=name, spec=spec
    )


def config_map(pipeline: K8sObject, model: ResolvedModel, pinned: Pinned) -> K8sObject:
    """The settings that the workers of a model read."""
    data = {"worker.json": json.dumps(pinned.worker, indent=2, sort_keys=True)}
    if pinned.prepare is not None:
        data["prepare.json"] = json.dumps(pinned.prepare, indent=2, sort_keys=True)
    return child(
        pipeline,
        api_version="v1",
        kind="ConfigMap",
        name=model.deployment,
        model=model,
        data=data,
    )


def deployment(
    pipeline: K8sObject, model: ResolvedModel, pinned: Pinned, scale: ModelScale
) -> K8sObject:
    """The workers of a model."""
    template = dict(pinned.template)
    metadata = dict(template.get("metadata") or {})
    own = {labels.TEMPLATE_HASH: pinned.template_hash}
    metadata["labels"] = {**(metadata.get("labels") or {}), **own}
    template["metadata"] = metadata
    surge = scale.max_surge
    spec: dict[str, Any] = {
        "selector": {"matchLabels": selector(pipeline, model)},
        "template": template,
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": 600,
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0 if surge else 1},
        },
    }
    if scale.replicas is not None:
        spec["replicas"] = scale.replicas
    return child(
        pipeline,
        api_version="apps/v1",
        kind="Deployment",
        name=model.deployment,
        model=model,
        annotations={labels.PINNED: pinned.to_annotation()},
        spec=spec,
    )


def service(pipeline: K8sObject, model: ResolvedModel) -> K8sObject:
    """One address for all replicas of a model."""
    spec = {"type": "ClusterIP", "selector": selector(pipeline, model), "ports": _ports()}
    return child(
        pipeline, api_version="v1", kind="Service", name=model.deployment, model=model, spec=spec
    )


def headless_service(pipeline: K8sObject, model: ResolvedModel) -> K8sObject:
    """The addresses of the replicas, for clients that balance calls themselves."""
    spec = {"clusterIP": "None", "selector": selector(pipeline, model), "ports": _ports()}
    name = headless_name(pipeline["metadata"]["name"], model.name)
    return child(pipeline, api_version="v1", kind="Service", name=name, model=model, spec=spec)


def autoscaler(pipeline: K8sObject, model: ResolvedModel, bounds: AutoscalerBounds) -> K8sObject:
    """The autoscaler of a model; metrics and behavior are the user's, untouched."""
    given = model.spec.autoscaling
    metrics = given.metrics if given is not None else None
    spec: dict[str, Any] = {
        "scaleTargetRef": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": model.deployment,
        },
        "minReplicas": bounds.minimum,
        "maxReplicas": bounds.maximum,
        "metrics": copy.deepcopy(_DEFAULT_METRICS)
        if not metrics
        else [metric.model_dump(mode="json", by_alias=True) for metric in metrics],
    }
    if given is not None and given.behavior is not None:
        spec["behavior"] = given.behavior
    return child(
        pipeline,
        api_version="autoscaling/v2",
        kind="HorizontalPodAutoscaler",
        name=model.deployment,
        model=model,
        spec=spec,
    )


def disruption_budget(pipeline: K8sObject, model: ResolvedModel) -> K8sObject:
    """Lets a drain of nodes take one replica at a time."""
    return child(
        pipeline,
        api_version="policy/v1",
        kind="PodDisruptionBudget",
        name=model.deployment,
        model=model,
        spec={
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(pipeline, model)},
            # A replica that is not ready serves nobody and must not hold up a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )


def _ports() -> list[dict[str, Any]]:
    return [
        {
            "name": "grpc",
            "port": GRPC_PORT,
            "targetPort": "grpc",
            "protocol": "TCP",
            "appProtocol": "kubernetes.io/h2c",
        },
        {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP"},
    ]
