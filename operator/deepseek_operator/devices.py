"""Unused devices of the cluster, from its nodes and pods.

Why it exists: a rollout may start one replica more only where a device is free for it. Clusters
have many pods and few of them use devices, so as little as possible is asked for, page by page, and
several pipelines share one count. Requests are the business of `kube`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from deepseek_operator.observed import K8sObject

__all__ = ["DeviceCounter"]

_FEW_NODES: Final = 16
"""Pods are asked for node by node up to this many nodes with devices, and all at once above."""

Pages = AsyncIterator[list[K8sObject]]


class DeviceCounter:
    """Counts devices, and remembers the last count.

    Args:
        nodes: lists the nodes of the cluster.
        pods: lists the pods that have not ended and that a field selector chooses.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        nodes: Callable[[], Pages],
        pods: Callable[[str], Pages],
        clock: Callable[[], float],
    ) -> None:
        self._nodes = nodes
        self._pods = pods
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._started = float("-inf")
        self._counted: AbstractSet[str] = frozenset()
        self._spare: Mapping[str, int] = {}

    async def spare(self, resources: AbstractSet[str], *, max_age_s: float) -> Mapping[str, int]:
        """The most devices that one usable node has left, by resource name.

        Args:
            resources: names of the resources that count, for example ``nvidia.com/gpu``.
            max_age_s: a count that began so long before this call will do; 0: none that began
                before it.
        """
        oldest = self._clock() - max_age_s
        async with self._one_at_a_time:
            # Who waited for another count may have got one that is young enough.
            if self._started < oldest or not resources <= self._counted:
                started = self._clock()
                self._spare = await self._count(resources)
                self._started, self._counted = started, resources
            return self._spare

    async def _count(self, resources: AbstractSet[str]) -> Mapping[str, int]:
        left: dict[str, Counter[str]] = {}
        async for page in self._nodes():
            left |= _capacities(page, resources)

        async def subtract(selector: str) -> None:
            async for page in self._pods(selector):
                for pod in page:
                    node = pod.get("spec", {}).get("nodeName")
                    if node in left:
                        left[node].subtract(_requested(pod))

        few = len(left) <= _FEW_NODES
        selectors = [f"spec.nodeName={name}" for name in left] if few else ["spec.nodeName!="]
        await asyncio.gather(*(subtract(selector) for selector in selectors))
        return {name: max(node[name] for node in left.values()) for name in resources if left}


def _capacities(
    nodes: Iterable[K8sObject], resources: AbstractSet[str]
) -> Mapping[str, Counter[str]]:
    """Devices by node that takes pods and has any."""
    found: dict[str, Counter[str]] = {}
    for node in nodes:
        devices = _devices(node.get("status", {}).get("allocatable") or {})
        wanted = Counter({name: amount for name, amount in devices.items() if name in resources})
        if wanted.total() and _usable(node):
            found[node["metadata"]["name"]] = wanted
    return found


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
