"""The pod template of a model's workers.

Why it exists: security, probes, draining and the way a bundle gets into a pod are decided here,
under the restricted Pod Security standard. What a user writes in ``podTemplate`` is laid over it
last.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Final

from deepseek_api.errors import ConfigurationError
from deepseek_api.vocabulary import DeviceKind

from deepseek_operator import labels
from deepseek_operator.config import OperatorConfig
from deepseek_operator.merge import overlay
from deepseek_operator.names import worker_name
from deepseek_operator.observed import K8sObject
from deepseek_operator.plan import ResolvedModel
from deepseek_operator.render import divided
from deepseek_operator.render.metadata import model_labels, selector
from deepseek_operator.render.worker import GRPC_PORT, HTTP_PORT

__all__ = ["image_of", "pod_template"]

_USER: Final = 65532
_BUNDLE: Final = "bundle"
_STARTUP_S: Final = 1800
_STARTUP_PERIOD_S: Final = 2
_CPU_REQUEST: Final = "250m"  # Without a request an autoscaler on CPU never scales.
_RESTRICTED: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def pod_template(
    pipeline: K8sObject,
    model: ResolvedModel,
    *,
    image: str,
    config: OperatorConfig,
    rollout_at: str = "",
) -> dict[str, Any]:
    """The template, without the label that holds its hash.

    Args:
        pipeline: the owner.
        model: a servable model.
        image: the worker image.
        config: settings of the installation.
        rollout_at: the request for a rollout that leads to these replicas; empty: none.

    Raises:
        ConfigurationError: the user's ``podTemplate`` cannot be laid over it.
    """
    name = pipeline["metadata"]["name"]
    spec: dict[str, Any] = {
        "serviceAccountName": worker_name(name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": config.drain.grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_worker(model, image, config)],
        "volumes": [
            {"name": "config", "configMap": {"name": model.deployment}},
            {"name": "tmp", "emptyDir": {}},
            _bundle_volume(model, config),
            *divided.volumes(model, config),
        ],
    }
    if secrets := _pull_secrets(model, config):
        spec["imagePullSecrets"] = [{"name": secret} for secret in secrets]
    if model.raw:
        spec["initContainers"] = [_prepare(model, config)]
    template: dict[str, Any] = {
        "metadata": {"labels": model_labels(pipeline, model)},
        "spec": spec,
    }
    if rollout_at:
        # Without a difference in the template nothing would be replaced.
        template["metadata"]["annotations"] = {labels.ROLLOUT_AT: rollout_at}
    return _overlaid(template, model, own=selector(pipeline, model))


def image_of(template: Mapping[str, Any]) -> str:
    """The image of the container that serves; empty: there is no such container."""
    for container in template.get("spec", {}).get("containers") or ():
        if container.get("name") == labels.WORKER_CONTAINER:
            return str(container.get("image") or "")
    return ""


def _overlaid(
    template: dict[str, Any], model: ResolvedModel, *, own: dict[str, str]
) -> dict[str, Any]:
    try:
        merged = overlay(template, model.spec.pod_template or {})
    except ConfigurationError as error:
        raise ConfigurationError(
            f"podTemplate of model '{model.name}' cannot be used: {error.message}",
            hint=error.hint,
        ) from error
    if not image_of(merged):
        raise ConfigurationError(
            f"podTemplate of model '{model.name}' removes the container "
            f"'{labels.WORKER_CONTAINER}' or its image, and without it nothing serves.",
            hint="Change the container's fields instead.",
        )
    # A template that its own selector does not match is refused, whatever the overlay says.
    metadata = merged.get("metadata") or {}
    merged["metadata"] = {**metadata, "labels": {**(metadata.get("labels") or {}), **own}}
    return copy.deepcopy(merged)


def _worker(model: ResolvedModel, image: str, config: OperatorConfig) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": labels.WORKER_CONTAINER,
        "image": image,
        "imagePullPolicy": config.image_pull_policy,
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(model, config),
        "securityContext": _RESTRICTED,
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": labels.CONFIG_MOUNT, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            _bundle_mount(model),
            *divided.mounts(model),
        ],
        # Loading may take long; only afterwards does silence mean that something is wrong.
        "startupProbe": _probe("/startupz", _STARTUP_PERIOD_S, _STARTUP_S // _STARTUP_PERIOD_S),
        "readinessProbe": _probe("/readyz", 2, 2),
        "livenessProbe": _probe("/livez", 10, 6),
    }
    if variables := divided.environment(model):
        container["env"] = variables
    if config.drain.pre_stop_s > 0:
        seconds = math.ceil(config.drain.pre_stop_s)
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": seconds}}}
    return container


def _probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _resources(model: ResolvedModel, config: OperatorConfig) -> dict[str, Any]:
    given = model.spec.resources
    requests = dict(given.requests or {}) if given is not None else {}
    limits = dict(given.limits or {}) if given is not None else {}
    defaults = {"cpu": _CPU_REQUEST}
    if model.memory_request is not None:
        defaults["memory"] = model.memory_request
    # A limit without a request is the request too; a default above it would be refused.
    requests = {k: v for k, v in defaults.items() if k not in limits} | requests
    resource = config.device_resources.get(model.device)
    if model.gpus and model.device is not DeviceKind.CPU and resource:
        limits[resource] = requests[resource] = str(model.gpus)
    return {"requests": requests} | ({"limits": limits} if limits else {})


def _pull_secrets(model: ResolvedModel, config: OperatorConfig) -> list[str]:
    # A bundle's image is pulled with the secrets of the pod; the server refuses one named twice.
    own = model.secret_name if (model.source_uri or "").startswith("oci://") else None
    return list(dict.fromkeys([*config.image_pull_secrets, *([own] if own else [])]))


def _bundle_volume(model: ResolvedModel, config: OperatorConfig) -> dict[str, Any]:
    scheme, _, place = (model.source_uri or "").partition("://")
    if scheme == "oci":
        image = {"reference": place, "pullPolicy": config.image_pull_policy}
        return {"name": _BUNDLE, "image": image}
    if scheme == "pvc":
        claim = {"claimName": place.partition("/")[0], "readOnly": True}
        return {"name": _BUNDLE, "persistentVolumeClaim": claim}
    return {"name": _BUNDLE, "emptyDir": {}}


def _bundle_mount(model: ResolvedModel) -> dict[str, Any]:
    scheme, _, place = (model.source_uri or "").partition("://")
    if model.raw:
        return {"name": _BUNDLE, "mountPath": labels.BUNDLE_MOUNT, "readOnly": True}
    path = f"{labels.BUNDLE_MOUNT}/{model.name}"
    mount: dict[str, Any] = {"name": _BUNDLE, "mountPath": path, "readOnly": True}
    folder = place.partition("/")[2].strip("/")
    if scheme == "pvc" and folder:
        mount["subPath"] = folder
    return mount


def _prepare(model: ResolvedModel, config: OperatorConfig) -> dict[str, Any]:
    """The init container that turns a raw source into a bundle."""
    container: dict[str, Any] = {
        "name": "prepare",
        "image": config.torch_image,
        "imagePullPolicy": config.image_pull_policy,
        "command": ["python", "-m", "deepseek_engine.prepare.container"],
        "args": [
            f"{labels.CONFIG_MOUNT}/prepare.json",
            f"{labels.BUNDLE_MOUNT}/{model.name}",
        ],
        "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}},
        "securityContext": _RESTRICTED,
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": labels.CONFIG_MOUNT, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            {"name": _BUNDLE, "mountPath": labels.BUNDLE_MOUNT},
        ],
    }
    if model.secret_name:
        container["envFrom"] = [{"secretRef": {"name": model.secret_name}}]
    return container
