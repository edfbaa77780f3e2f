"""A cluster in memory, as far as scaling sees it: everything takes effect late, in any order.

Deployments start and end pods only when their controller runs, pods end only when they are reaped,
autoscalers write only when they sync.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_operator import labels
from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.plan import ModelScale, ScalingPlan

from tests.support.scaling import autoscaler, decide, deployment, observe, pods

HPA = "kube-controller-manager"
TARGET = 27720
"""A metric's target that every count of replicas up to 12 divides."""
METRIC = {"type": "External", "external": {"target": {"value": str(TARGET)}}}


@dataclass
class Workload:
    """A Deployment."""

    replicas: int = 1
    owners: set[str] = field(default_factory=set)
    seen: int = 0
    """``spec.replicas`` when its controller last looked."""
    cost: int = 1


@dataclass
class Scaler:
    """An autoscaler."""

    least: int
    most: int
    desired: int = 0
    at_bound: bool = False
    status: dict[str, Any] = field(default_factory=dict)


class Simulation:
    """The cluster, and the operator's part in it.

    Args:
        wanted: the pipeline at first.
        costs: GPUs of a replica by model.
    """

    def __init__(self, wanted: ModelPipeline, costs: dict[str, int]) -> None:
        self.wanted = wanted
        self.costs = costs
        self.load: Counter[str] = Counter()
        """Replicas that each model's load needs."""
        self.workloads: dict[str, Workload] = {}
        self.scalers: dict[str, Scaler] = {}
        self.running: Counter[str] = Counter()
        self.ending: Counter[str] = Counter()
        self.demands: dict[str, int] = {}
        self.pending: dict[str, tuple[int, float]] = {}
        self.now = 0.0
        self.plan: ScalingPlan | None = None
        self.most_used = 0

    def used(self) -> int:
        """Units that are in use or may be, ending replicas included."""
        units = 0
        for name in {*self.workloads, *self.scalers, *self.running, *self.ending}:
            wanted = self.workloads[name].replicas if name in self.workloads else 0
            bound = self.scalers[name].most if name in self.scalers else 0
            count = max(bound, max(wanted, self.running[name]) + self.ending[name])
            units += self.costs[name] * count
        return units

    def note(self) -> None:
        """Remember the most that was ever in use."""
        self.most_used = max(self.most_used, self.used())

    def observed(self) -> Observed:
        """The snapshot that the operator sees."""
        children: list[K8sObject] = []
        for name, work in self.workloads.items():
            item = deployment(name, work.replicas, owner=None, gpus=work.cost, generation=2)
            item["metadata"]["managedFields"] += [_owned(owner) for owner in sorted(work.owners)]
            item["status"] = {
                "observedGeneration": 2 if work.seen == work.replicas else 1,
                "replicas": self.running[name],
                "updatedReplicas": self.running[name],
            }
            children.append(item)
        for name, scaler in self.scalers.items():
            item = autoscaler(name, least=scaler.least, most=scaler.most, metrics=[METRIC])
            item["status"] = scaler.status
            children.append(item)
        found = [
            pod
            for name in sorted({*self.running, *self.ending})
            for pod in pods(name, self.running[name], self.ending[name], gpus=self.costs[name])
        ]
        return observe(*children, pods=found, previous=self.demands)

    def reconcile(self, *, order: list[str], saves_status: bool = True) -> None:
        """One pass of the operator; its writes take effect one after the other."""
        plan = decide(self.wanted, self.observed(), now=self.now, pending=self.pending)
        self.plan = plan
        self.pending = dict(plan.pending_demand)
        for name in list(self.scalers):
            scale = plan.scales.get(name)
            if scale is None or scale.autoscaler is None:
                del self.scalers[name]
        for name in sorted(plan.scales, key=order.index):
            self._write(plan.scales[name])
            self.note()
        for name in list(self.workloads):
            if name not in plan.scales:
                del self.workloads[name]
                self.ending[name] += self.running.pop(name, 0)
        if saves_status:
            self.demands = {row.model: row.demand for row in plan.allocation.rows}

    def _write(self, scale: ModelScale) -> None:
        created = scale.model not in self.workloads
        work = self.workloads.setdefault(scale.model, Workload(cost=self.costs[scale.model]))
        if scale.handover is not None and not created:
            self._hand_over(work, scale.handover)
        if scale.replicas is not None:
            work.replicas, work.owners = scale.replicas, {labels.MANAGER}
        elif labels.MANAGER in work.owners:
            work.owners.discard(labels.MANAGER)
            if not work.owners:
                work.replicas = 1  # The field that nobody owns falls back to its default.
        if scale.handover is not None and created:
            self._hand_over(work, scale.handover)
        if scale.autoscaler is not None:
            bounds = scale.autoscaler
            scaler = self.scalers.setdefault(scale.model, Scaler(bounds.minimum, bounds.maximum))
            scaler.least, scaler.most = bounds.minimum, bounds.maximum

    @staticmethod
    def _hand_over(work: Workload, replicas: int) -> None:
        # A forced apply takes the field from everybody with another value.
        if work.replicas != replicas:
            work.owners.clear()
        work.replicas = replicas
        work.owners.add(labels.HANDOVER_MANAGER)

    def run_deployment(self, name: str) -> None:
        """The Deployment's controller starts and ends pods."""
        if name not in self.workloads:
            return
        work = self.workloads[name]
        work.seen = work.replicas
        surplus = max(0, self.running[name] - work.replicas)
        self.ending[name] += surplus
        self.running[name] = work.replicas

    def reap(self, name: str) -> None:
        """One pod that was ending is gone."""
        self.ending[name] = max(0, self.ending[name] - 1)

    def sync_autoscaler(self, name: str) -> None:
        """The autoscaler looks at its metric and scales."""
        if name not in self.scalers or name not in self.workloads:
            return
        scaler, work = self.scalers[name], self.workloads[name]
        if work.replicas == 0:
            scaler.status = _status(0, 0, active="False", reason="ScalingDisabled")
            return
        wish = self.load[name]
        current = work.replicas
        desired = max(scaler.least, min(wish, scaler.most), 1)
        value = {"value": str(wish * TARGET // current)}
        scaler.status = _status(current, desired, at_bound=wish > scaler.most, current_value=value)
        if desired != current:
            work.replicas, work.owners = desired, {HPA}

    def settle(self) -> None:
        """Let everything take effect until nothing changes any more."""
        names = sorted(self.costs)
        quiet = 0
        for _ in range(200):
            before = self._state()
            self.now += 31
            self.reconcile(order=names)
            for name in names:
                self.sync_autoscaler(name)
                self.note()
                self.run_deployment(name)
                self.note()
            for name in names:
                self.reap(name)
            # A changed demand takes two passes: it is seen, and then it has held.
            quiet = quiet + 1 if self._state() == before else 0
            if quiet == 3:
                return
        raise AssertionError("the cluster does not come to rest")

    def _state(self) -> str:
        return repr((self.workloads, self.scalers, self.running, self.ending, self.demands))


def _owned(manager: str) -> dict[str, Any]:
    operation = "Update" if manager == HPA else "Apply"
    fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
    return {"manager": manager, "operation": operation, "fieldsV1": fields}


def _status(
    current: int,
    desired: int,
    *,
    active: str = "True",
    reason: str = "ValidMetricFound",
    at_bound: bool = False,
    current_value: dict[str, str] | None = None,
) -> dict[str, Any]:
    limited = "TooManyReplicas" if at_bound else "DesiredWithinRange"
    shown = {"type": "External", "external": {"current": current_value}}
    return {
        "currentReplicas": current,
        "desiredReplicas": desired,
        "currentMetrics": [] if current_value is None else [shown],
        "conditions": [
            {"type": "ScalingActive", "status": active, "reason": reason},
            {"type": "ScalingLimited", "status": str(at_bound), "reason": limited},
        ],
    }
