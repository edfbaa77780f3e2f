"""Pipelines on a bare API server: what tests of the operator write there and look for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from deepseek_operator.observed import CHILD_KINDS
from deepseek_operator.resources import RESOURCES, object_path

from tests.support.apiserver import ApiServer
from tests.support.operator_process import ROOT
from tests.support.worker import until

__all__ = [
    "EXAMPLE", "SOURCE", "Namespace", "autoscaled", "install_crd", "make_namespace",
    "operator_settings", "pipeline", "settled",
]  # fmt: skip

CRD = ROOT / "crds" / "deepseek.ai_modelpipelines.yaml"
EXAMPLE = ROOT / "examples" / "nlp-vision-joint.yaml"
SOURCE = {"uri": "oci://registry.example/bundle@sha256:" + "1" * 64}
_NAMES = itertools.count()


def operator_settings(folder: Path) -> dict[str, Any]:
    """Settings of an operator with one image and a catalog of images."""
    path = folder / "catalog.yaml"
    entries = {name: {"source": SOURCE} for name in ("bert-base", "resnet50")}
    path.write_text(yaml.safe_dump({"models": entries}))
    return {
        "images": {"cpu": "registry.example/worker-cpu:test"},
        "catalogFile": str(path),
    }


def install_crd(api: ApiServer) -> None:
    """Make the kind known and wait until it is served."""
    definition = yaml.safe_load(CRD.read_text())
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    api.apply(f"{path}/{definition['metadata']['name']}", definition)
    until(lambda: api.get(RESOURCES["ModelPipeline"].api), what="the new kind")


@dataclass(frozen=True)
class Namespace:
    """A namespace of one test."""

    api: ApiServer
    name: str

    def path(self, kind: str, name: str) -> str:
        """Path of an object."""
        return object_path(kind, self.name, name)

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """An object, or None."""
        return self.api.get(self.path(kind, name))

    def wait(self, kind: str, name: str, *, timeout_s: float = 20.0) -> dict[str, Any]:
        """An object, once it is there."""
        found: dict[str, Any] = until(
            lambda: self.get(kind, name), timeout_s=timeout_s, what=f"{kind} {name}"
        )
        return found

    def put(self, pipeline: dict[str, Any]) -> dict[str, Any]:
        """Apply a pipeline as a user."""
        return self.api.apply(self.path("ModelPipeline", pipeline["metadata"]["name"]), pipeline)

    def children(self, pipeline: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Everything with the label of a pipeline, by kind and name."""
        selector = f"labelSelector=deepseek.ai/pipeline={pipeline}"
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for kind in CHILD_KINDS:
            answer = self.api.request("GET", f"{object_path(kind, self.name)}?{selector}")
            found |= {(kind, item["metadata"]["name"]): item for item in answer["items"]}
        return found

    def condition(self, pipeline: str, kind: str) -> dict[str, Any]:
        """A condition of a pipeline; empty: it is not there yet."""
        status = (self.get("ModelPipeline", pipeline) or {}).get("status") or {}
        return next((c for c in status.get("conditions", ()) if c["type"] == kind), {})


def make_namespace(api: ApiServer) -> Namespace:
    """A new namespace."""
    name = f"test-{next(_NAMES)}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return Namespace(api, name)


def pipeline(name: str = "p", *, models: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A pipeline of one model with two replicas, or of these models."""
    one = {"name": "m", "type": "NLP", "task": "text-embedding", "replicas": 2, "source": SOURCE}
    return {
        "apiVersion": "deepseek.ai/v1alpha1",
        "kind": "ModelPipeline",
        "metadata": {"name": name},
        "spec": {"models": models or [one]},
    }


def autoscaled(name: str = "p") -> dict[str, Any]:
    """The same with an autoscaler from two to five."""
    wanted = pipeline(name)
    wanted["spec"]["models"][0]["autoscaling"] = {"minReplicas": 2, "maxReplicas": 5}
    return wanted


def settled(namespace: Namespace, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The children, once status speaks of the newest generation."""

    def done() -> bool:
        found = namespace.get("ModelPipeline", name) or {}
        seen = found.get("status", {}).get("observedGeneration")
        return bool(seen == found.get("metadata", {}).get("generation", 0))

    until(done, what=f"the status of {name}")
    return namespace.children(name)
