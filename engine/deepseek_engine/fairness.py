"""Sharing one device between models: start-time fair queueing on measured time.

Why it exists: weights are shares of device time, and models differ in how long a batch takes, so
counting requests or batches would be wrong. Each model is a flow; what a batch really took is
charged after it ran, so that nothing needs to be predicted. The method is that of Goyal, Vin and
Cheng, "Start-time Fair Queuing" (1996). For two flows that always have work the difference of
service per weight stays at most ``cmax_i / w_i + cmax_j / w_j``, where cmax is a flow's longest
batch.

The choice is work-conserving: it is made among the flows that have work at that moment, and the
device is never held free for one that may come. So weights bind only flows whose queues are not
empty when a batch ends. A few clients that each wait for their answer before they send again leave
their queue empty at that moment; their model then takes turns with the others, one batch each,
whatever its weight. Enough requests in flight (more than one batch of them) make the weights hold.

This module knows no clock, no requests and no device.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["FairQueue"]


@dataclass(slots=True)
class _Flow:
    weight: float
    finish: float = 0.0
    """Virtual time at which the flow's last batch ended."""
    backlogged: bool = False
    """Whether the flow had work at every choice since its last one."""
    served: int = 0
    """Number of choices that it won; equal tags go to the flow served least."""


class FairQueue:
    """Decides whose batch runs next."""

    def __init__(self) -> None:
        self._flows: dict[str, _Flow] = {}
        self._now = 0.0

    def set_weight(self, flow: str, weight: float) -> None:
        """Add a flow, or change its weight from its next batch on.

        Raises:
            ValueError: the weight is not above zero.
        """
        if not weight > 0:
            raise ValueError(f"the weight of {flow!r} must be above zero, not {weight}")
        if flow in self._flows:
            self._flows[flow].weight = weight
        else:
            self._flows[flow] = _Flow(weight)

    def choose(self, ready: Collection[str]) -> str:
        """The flow, among those with work now, whose batch runs next.

        Raises:
            ValueError: none is ready.
        """
        if not ready:
            raise ValueError("no flow is ready")
        for name, flow in self._flows.items():
            waits = name in ready
            if waits and not flow.backlogged:
                # A flow that was idle starts at the present virtual time: idleness earns nothing.
                flow.finish = max(flow.finish, self._now)
            flow.backlogged = waits
        chosen = min(
            ready, key=lambda name: (self._flows[name].finish, self._flows[name].served, name)
        )
        self._now = self._flows[chosen].finish
        self._flows[chosen].served += 1
        return chosen

    def charge(self, flow: str, cost: float) -> None:
        """Charge a batch to its flow after it ran.

        Args:
            flow: the flow that was chosen last.
            cost: device time, in any unit that is the same for all flows.
        """
        state = self._flows[flow]
        state.finish += max(0.0, cost) / state.weight

    def idle(self) -> None:
        """Say that no flow has work: whoever comes next starts even with all others."""
        for flow in self._flows.values():
            flow.backlogged = False
            self._now = max(self._now, flow.finish)

    def virtual_time(self, flow: str) -> float:
        """Device time per weight that a flow is charged with."""
        return self._flows[flow].finish
