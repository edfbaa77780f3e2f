"""Pods, Deployments and Events as a cluster shows them, for tables of statuses and causes."""

from __future__ import annotations

from typing import Any

Wire = dict[str, Any]

WORKER_IMAGE = "registry.example/worker-cpu:1.0"
BUNDLE_IMAGE = "registry.example/bundles/bert:1"
STARTED = "2026-01-05T10:00:00Z"


def pod(
    name: str = "joint-bert-7d9f-abcde",
    *,
    model: str = "bert",
    template: str = "new",
    ready: bool = False,
    status: Wire | None = None,
    container: Wire | None = None,
    init: Wire | None = None,
    ending: bool = False,
    phase: str = "Running",
    probe: Wire | None = None,
) -> Wire:
    """A pod of one model; ``container`` and ``init`` are states of its containers."""
    metadata: Wire = {
        "name": name,
        "uid": f"uid-of-{name}",
        "labels": {"deepseek.ai/model": model, "deepseek.ai/template-hash": template},
    }
    if ending:
        metadata["deletionTimestamp"] = STARTED
    state: Wire = {
        "phase": phase,
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if ready else "False"},
        ],
        "containerStatuses": [
            {
                "name": "worker",
                "image": WORKER_IMAGE,
                "restartCount": 0,
                "ready": ready,
                "started": ready,
                "state": {"running": {"startedAt": STARTED}},
                "lastState": {},
                **(container or {}),
            }
        ],
    }
    if init is not None:
        state["initContainerStatuses"] = [{"name": "prepare", "restartCount": 0, **init}]
    worker: Wire = {
        "name": "worker",
        "image": WORKER_IMAGE,
        "resources": {"limits": {"memory": "512Mi"}},
        "startupProbe": probe or {"periodSeconds": 3, "failureThreshold": 600},
    }
    return {
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "terminationGracePeriodSeconds": 45,
            "initContainers": [{"name": "prepare", "image": "registry.example/torch:1.0"}],
            "containers": [worker],
            "volumes": [{"name": "bundle", "image": {"reference": BUNDLE_IMAGE}}],
        },
        "status": {**state, **(status or {})},
    }


def waiting(reason: str, message: str = "", **more: Any) -> Wire:
    """State of a container that waits."""
    return {"started": False, "state": {"waiting": {"reason": reason, "message": message}}, **more}


def ended(
    exit_code: int = 1,
    *,
    reason: str = "Error",
    message: str = "",
    seconds: int = 4,
) -> Wire:
    """``terminated`` of a container that lived for some seconds."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return {
        "terminated": {
            "exitCode": exit_code,
            "reason": reason,
            "message": message,
            "startedAt": STARTED,
            "finishedAt": f"2026-01-05T{10 + hours:02}:{minutes:02}:{rest:02}Z",
        }
    }


def unscheduled(message: str) -> Wire:
    """Status of a pod that no node takes."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return {
        "phase": "Pending",
        "conditions": [{**condition, "message": message}],
        "containerStatuses": [],
    }


def event(reason: str, message: str, *, of: str = "joint-bert-7d9f-abcde") -> Wire:
    """A warning about a pod."""
    return {
        "type": "Warning",
        "reason": reason,
        "message": message,
        "involvedObject": {"kind": "Pod", "name": of, "uid": f"uid-of-{of}"},
    }


def deployment(
    *,
    replicas: int | None = 2,
    failure: str | None = None,
    template: str = "new",
    name: str = "joint-bert",
) -> Wire:
    """A Deployment; ``failure`` is the API server's text when it refuses the pods."""
    labels = {"deepseek.ai/template-hash": template}
    spec: Wire = {"template": {"metadata": {"labels": labels}}}
    if replicas is not None:
        spec["replicas"] = replicas
    conditions = []
    if failure is not None:
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
        conditions.append({**condition, "message": failure})
    return {
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": spec,
        "status": {"conditions": conditions},
    }
