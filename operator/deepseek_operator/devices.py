"""Unused devices of the cluster, from its nodes and pods.

Why it exists: a rollout may start one replica more only where a device is free for it. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from deepseek_operator.observed import K8sObject

__all__ = ["spare_devices"]


def spare_devices(nodes: Iterable[K8sObject], pods: Iterable[K8sObject]) -> dict[str, int]:
    """The most devices that one usable node has left, by resource name.

    Args:
        nodes: nodes of the cluster; those that take no pods do not count.
        pods: pods that have not ended.
    """
    used: dict[str, Counter[str]] = {}
    for pod in pods:
        node = pod.get("spec", {}).get("nodeName")
        if node and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            used.setdefault(node, Counter()).update(_requested(pod))
    spare: dict[str, int] = {}
    for node in nodes:
        if not _usable(node):
            continue
        taken = used.get(node["metadata"]["name"], Counter())
        for name, amount in _devices(node.get("status", {}).get("allocatable") or {}).items():
            spare[name] = max(spare.get(name, 0), amount - taken[name])
    return spare


def _usable(node: K8sObject) -> bool:
    conditions = node.get("status", {}).get("conditions") or ()
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and not node.get("spec", {}).get("unschedulable")


def _requested(pod: K8sObject) -> Counter[str]:
    total: Counter[str] = Counter()
    for container in pod.get("spec", {}).get("containers") or ():
        total.update(_devices((container.get("resources") or {}).get("requests") or {}))
    return total


def _devices(amounts: Mapping[str, object]) -> dict[str, int]:
    # Extended resources have a domain in their name and are whole numbers.
    return {
        name: int(str(amount))
        for name, amount in amounts.items()
        if "/" in name and str(amount).isdigit()
    }
