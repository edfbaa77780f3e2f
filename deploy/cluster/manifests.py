"""Kubernetes objects that a fresh cluster needs before it is usable.

Why it exists: CoreDNS and metrics-server run as processes of the machine, so the cluster has to be
told what they may read and where the metrics API answers; in kind metrics-server is a pod. Pure
functions.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from deploy.cluster.components import METRICS_FLAGS
from deploy.cluster.layout import NETWORK, PORTS

__all__ = ["metrics_in_cluster", "on_this_machine"]

_LABELS = {"k8s-app": "metrics-server"}
_META = {"name": "metrics-server", "namespace": "kube-system", "labels": _LABELS}


def on_this_machine(ca: bytes) -> list[dict[str, Any]]:
    """Rights of CoreDNS and metrics-server, and a metrics API that leads out of the cluster.

    Args:
        ca: the certificate, PEM, that metrics-server's own certificate is checked against.
    """
    user = {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "User",
        "name": "system:metrics-server",
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "metrics-server",
            "namespace": "kube-system",
            "labels": {
                "kubernetes.io/service-name": "metrics-server",
                "endpointslice.kubernetes.io/managed-by": "deepseek-cluster",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NETWORK.node_ip], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": PORTS["metrics-server"], "protocol": "TCP"}],
    }
    trust = {"caBundle": base64.b64encode(ca).decode()}
    return [
        *_read("coredns.yaml"),
        *_metrics_access(user),
        _service({}),
        endpoints,
        _api_service(trust),
    ]


def metrics_in_cluster(image: str) -> list[dict[str, Any]]:
    """metrics-server as a pod, for a cluster whose kubelets sign their own certificates.

    Args:
        image: the image, present on the node.
    """
    account = {"kind": "ServiceAccount", "name": "metrics-server", "namespace": "kube-system"}
    container = {
        "name": "metrics-server",
        "image": image,
        "imagePullPolicy": "Never",
        "args": [
            "--cert-dir=/tmp",
            f"--secure-port={PORTS['metrics-server']}",
            "--kubelet-insecure-tls",
            "--kubelet-preferred-address-types=InternalIP",
            *METRICS_FLAGS,
        ],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _META,
        "spec": {
            "selector": {"matchLabels": _LABELS},
            "template": {
                "metadata": {"labels": _LABELS},
                "spec": {
                    "serviceAccountName": "metrics-server",
                    "containers": [container],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                },
            },
        },
    }
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _META},
        *_metrics_access(account),
        deployment,
        _service({"selector": _LABELS}),
        _api_service({"insecureSkipTLSVerify": True}),
    ]


def _read(name: str) -> list[dict[str, Any]]:
    text = (Path(__file__).resolve().parent / "manifests" / name).read_text()
    return [document for document in yaml.safe_load_all(text) if document]


def _metrics_access(subject: dict[str, str]) -> list[dict[str, Any]]:
    return [
        document | {"subjects": [subject]} if "subjects" in document else document
        for document in _read("metrics-server.yaml")
    ]


def _service(more: dict[str, Any]) -> dict[str, Any]:
    port = {"name": "https", "port": 443, "targetPort": PORTS["metrics-server"], "protocol": "TCP"}
    spec = {"ports": [port]} | more
    return {"apiVersion": "v1", "kind": "Service", "metadata": _META, "spec": spec}


def _api_service(more: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io", "labels": _LABELS},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"name": "metrics-server", "namespace": "kube-system"},
        }
        | more,
    }
