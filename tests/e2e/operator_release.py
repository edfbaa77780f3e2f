"""The operator's chart as installed in a cluster for tests."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.cluster import ROOT, Kube, Space, eventually
from tests.support.cluster_sampler import is_ready

__all__ = ["CHART", "NAMESPACE", "Release"]

CHART: Final = ROOT / "charts" / "deepseek-operator"
NAMESPACE: Final = "deepseek-e2e-system"
_CRD: Final = "modelpipelines.deepseek.ai"
_SELECTOR: Final = "app.kubernetes.io/component=operator"


class Release:
    """One release, installed with short times and with the CPU image in place of the CUDA one."""

    def __init__(self, kube: Kube, *, catalog: Mapping[str, Any], name: str = "deepseek") -> None:
        self.kube = kube
        self.name = name
        self.catalog = catalog
        self.space = Space(kube, NAMESPACE)
        self.values: dict[str, Any] = {
            "registry": "localhost",
            "images": {"cpu": "deepseek/worker-cpu", "cuda": "deepseek/worker-cpu"},
            "allowRandomWeights": True,
            "demandHoldS": 2,
            "drain": {"preStopS": 2, "drainS": 5, "graceS": 10},
            "resyncS": 60,
            "catalog": {"models": dict(catalog)},
        }

    def install(self, *, take_ownership: bool = False, **changes: Any) -> None:
        """Install or upgrade with these values changed; returns when the operator is ready.

        Args:
            take_ownership: take over what a release of another name left.
            changes: values of the chart.
        """
        self.kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": NAMESPACE,
                    "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
                },
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            values = Path(folder) / "values.yaml"
            values.write_text(yaml.safe_dump(self.values | changes))
            self.kube.helm(
                *("upgrade", "--install", self.name, str(CHART), "--namespace", NAMESPACE),
                *("--values", str(values), "--wait", "--timeout", "120s"),
                *(("--take-ownership",) if take_ownership else ()),
            )

    def uninstall(self) -> None:
        """Uninstall; returns when the operator's pods are gone."""
        self.kube.helm(
            "uninstall", self.name, "--namespace", NAMESPACE, "--ignore-not-found", "--wait"
        )
        eventually(lambda: not self.pods(), what="the operator's pods are still there")

    def remove(self) -> None:
        """Remove everything that this release and earlier ones left."""
        if self.kube.get("CustomResourceDefinition", _CRD):
            for item in self.kube.items("ModelPipeline"):
                metadata = item["metadata"]
                self.kube.delete("ModelPipeline", metadata["name"], metadata["namespace"])
        self.uninstall()
        self.kube.delete("CustomResourceDefinition", _CRD)
        eventually(lambda: self.kube.get("CustomResourceDefinition", _CRD) is None)

    def others(self) -> list[str]:
        """Deployments of other releases that run an operator in this cluster."""
        found = self.kube.items(
            "Deployment", selector=f"{_SELECTOR},app.kubernetes.io/part-of=deepseek"
        )
        return [
            f"{item['metadata']['namespace']}/{item['metadata']['name']}"
            for item in found
            if item["metadata"]["namespace"] != NAMESPACE and item["spec"]["replicas"]
        ]

    def pods(self) -> list[dict[str, Any]]:
        """The operator's pods, ending ones included."""
        return self.space.items("Pod", _SELECTOR)

    def scale(self, replicas: int) -> None:
        """Run this many operators (0 or 1); returns when it is so."""
        found = self.space.items("Deployment", _SELECTOR)[0]["metadata"]["name"]
        self.space.merge("Deployment", found, {"spec": {"replicas": replicas}})
        self.wait(replicas)

    def wait(self, replicas: int = 1) -> None:
        """Wait until this many operators are ready and no other exists."""

        def so() -> bool:
            pods = self.pods()
            return len(pods) == replicas and all(map(is_ready, pods))

        eventually(so, timeout_s=120, what=f"not {replicas} operators: {self.log()}")

    def restart(self) -> None:
        """End the operator's pods at once; returns when new ones are ready."""
        for pod in self.pods():
            self.kube.delete("Pod", pod["metadata"]["name"], NAMESPACE, grace_s=0)
        self.wait()

    def log(self, lines: int = 30) -> str:
        """The operator's last lines."""
        return self.kube.kubectl(
            *("logs", "-n", NAMESPACE, "-l", _SELECTOR, f"--tail={lines}"), check=False
        ).stdout
