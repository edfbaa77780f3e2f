"""Metrics of the operator.

Why it exists: dashboards and alerts name these; all of them are defined here and nowhere else.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["Metrics"]

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics, in a registry of their own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self.reconciles = Counter(
            "deepseek_operator_reconcile",
            "Runs of the reconciler, by result: ok, gone, invalid, retry, error.",
            ["result"],
            registry=self.registry,
        )
        self.duration = Histogram(
            "deepseek_operator_reconcile_duration_seconds",
            "Duration of a run of the reconciler.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "deepseek_operator_queue_depth",
            "Pipelines that are due and wait.",
            registry=self.registry,
        )
        self.queue_busy = Gauge(
            "deepseek_operator_queue_busy",
            "Pipelines that are being reconciled.",
            registry=self.registry,
        )
        self.queue_oldest = Gauge(
            "deepseek_operator_queue_oldest_age_seconds",
            "How long the oldest due pipeline has waited for the end of its run.",
            registry=self.registry,
        )
        self.requests = Counter(
            "deepseek_operator_child_requests",
            "Changes of children, by kind, action (apply, handover, delete) and result "
            "(ok, refused, failed).",
            ["kind", "action", "result"],
            registry=self.registry,
        )
        self.pipelines = Gauge(
            "deepseek_operator_pipelines",
            "Pipelines by the status of their condition Ready: True, False, Unknown.",
            ["ready"],
            registry=self.registry,
        )
