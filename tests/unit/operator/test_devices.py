"""Counting devices that nobody uses: how little is asked for, and how old an answer may be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from deepseek_operator.devices import DeviceCounter, Pages
from deepseek_operator.observed import K8sObject

GPU, OTHER = "nvidia.com/gpu", "example.com/fpga"
WANTED = frozenset({GPU})


def node(name: str, *, ready: bool = True, cordoned: bool = False, **devices: int) -> K8sObject:
    amounts = {"cpu": "8", GPU: str(devices.get("gpu", 0)), OTHER: str(devices.get("other", 0))}
    return {
        "metadata": {"name": name},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def pod(on: str, *requests: Mapping[str, str]) -> K8sObject:
    containers = [{"resources": {"requests": dict(request)}} for request in requests]
    return {"metadata": {"name": "x"}, "spec": {"nodeName": on, "containers": containers}}


class World:
    """Nodes, pods and a clock; every list takes a second."""

    def __init__(self, *nodes: K8sObject, pods: tuple[K8sObject, ...] = ()) -> None:
        self.now = 100.0
        self.nodes = nodes
        self.pods = pods
        self.asked: list[str] = []
        self.counter = DeviceCounter(
            nodes=self.list_nodes, pods=self.list_pods, clock=lambda: self.now
        )

    async def list_nodes(self) -> Pages:
        self.asked.append("nodes")
        self.now += 1
        await asyncio.sleep(0)
        yield list(self.nodes[:1])
        yield list(self.nodes[1:])

    async def list_pods(self, selector: str) -> Pages:
        self.asked.append(selector)
        field, _, value = selector.partition("=")
        chosen = [one for one in self.pods if not value or one["spec"]["nodeName"] == value]
        await asyncio.sleep(0)
        for one in chosen if field in ("spec.nodeName", "spec.nodeName!") else ():
            yield [one]

    def spare(self, max_age_s: float = 0.0, resources: frozenset[str] = WANTED) -> Any:
        return asyncio.run(self.counter.spare(resources, max_age_s=max_age_s))


THREE = pod("a", {GPU: "1"}, {GPU: "2", "cpu": "4"})
CASES: dict[str, tuple[World, Mapping[str, int]]] = {
    "most on one node": (World(node("a", gpu=4), node("b", gpu=2), pods=(THREE,)), {GPU: 2}),
    "all used": (World(node("a", gpu=3), pods=(THREE,)), {GPU: 0}),
    "not ready": (World(node("a", gpu=4, ready=False), node("b", gpu=1)), {GPU: 1}),
    "cordoned": (World(node("a", gpu=4, cordoned=True)), {}),
    "no node": (World(), {}),
    "another device": (World(node("a", other=4)), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_most_that_one_usable_node_has_left_counts(case: str) -> None:
    world, expected = CASES[case]
    assert world.spare() == expected


def test_only_pods_on_nodes_with_devices_are_asked_for() -> None:
    world = World(node("plain"), node("a", gpu=1), node("b", gpu=1), node("odd", other=1))
    world.spare()
    assert sorted(world.asked) == ["nodes", "spec.nodeName=a", "spec.nodeName=b"]


def test_without_a_node_with_devices_no_pod_is_asked_for() -> None:
    world = World(node("plain"))
    world.spare()
    assert world.asked == ["nodes"]


def test_on_many_nodes_all_pods_are_asked_for_at_once() -> None:
    nodes = [node(f"n{number}", gpu=1) for number in range(40)]
    world = World(*nodes, pods=tuple(pod(f"n{number}", {GPU: "1"}) for number in range(39)))
    assert world.spare() == {GPU: 1}
    assert world.asked == ["nodes", "spec.nodeName!="]


def test_a_count_is_shared_while_it_is_young_and_made_anew_when_asked_for() -> None:
    world = World(node("a", gpu=1))
    assert world.spare(max_age_s=2) == {GPU: 1}
    world.nodes = (node("a", gpu=4),)
    world.now += 1
    assert world.spare(max_age_s=2) == {GPU: 1}
    assert world.spare(max_age_s=0) == {GPU: 4}
    world.nodes = (node("a", gpu=2),)
    world.now += 2.5
    assert world.spare(max_age_s=2) == {GPU: 2}


def test_a_count_of_other_devices_does_not_do() -> None:
    world = World(node("a", gpu=1, other=3))
    world.spare(max_age_s=2)
    assert world.spare(max_age_s=9, resources=frozenset({OTHER})) == {OTHER: 3}


def test_who_asks_at_the_same_time_shares_one_count() -> None:
    world = World(node("a", gpu=1))

    async def scenario() -> list[Mapping[str, int]]:
        calls = (world.counter.spare(WANTED, max_age_s=0) for _ in range(20))
        return await asyncio.gather(*calls)

    assert asyncio.run(scenario()) == [{GPU: 1}] * 20
    # One that began before the others asked, and one for all the others.
    assert world.asked.count("nodes") <= 2


def test_a_failed_count_is_not_remembered() -> None:
    world = World(node("a", gpu=1))
    good = world.nodes
    world.nodes = ({"metadata": {}, "status": {"allocatable": {GPU: "1"}, "conditions": [{}]}},)
    with pytest.raises(KeyError):
        world.spare()
    world.nodes = good
    assert world.spare(max_age_s=60) == {GPU: 1}
