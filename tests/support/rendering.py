"""Pipelines, plans and snapshots for the tests of resolving and rendering."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from deepseek_api.allocation import allocate
from deepseek_api.catalog import Catalog, builtin_catalog
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_operator.config import OperatorConfig
from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.plan import AutoscalerBounds, ModelScale, ResolvedModel, ScalingPlan
from deepseek_operator.render import Rendered, render
from deepseek_operator.resolve import resolve

CONFIG = OperatorConfig(
    images={"cpu": "example.com/worker-cpu:1", "cuda": "example.com/worker-cuda:1"},
    torch_image="example.com/worker-cuda:1",
)
UID = "3f0c9a52-0000-4000-8000-000000000001"
CATALOG = builtin_catalog()


def stored(document: Mapping[str, Any]) -> K8sObject:
    """The pipeline as the API server would give it back."""
    raw = copy.deepcopy(dict(document))
    raw["metadata"] = {"namespace": "default", "uid": UID, "generation": 1, **raw["metadata"]}
    return raw


def one_model(name: str = "bert-base", **fields: Any) -> K8sObject:
    """A pipeline ``shop`` with one model, by default a bundle in an image."""
    model = {"name": name, "source": {"uri": "oci://example.com/bert:1"}, **fields}
    return stored(
        {
            "apiVersion": "deepseek.ai/v1alpha1",
            "kind": "ModelPipeline",
            "metadata": {"name": "shop"},
            "spec": {"models": [model]},
        }
    )


def from_file(path: Path) -> K8sObject:
    """The first document of a file as a stored pipeline."""
    return stored(yaml.safe_load(path.read_text("utf-8")))


def parsed(raw: K8sObject) -> ModelPipeline:
    """The types of a stored pipeline."""
    return ModelPipeline.model_validate({k: v for k, v in raw.items() if k != "status"})


def resolved(
    raw: K8sObject, *, config: OperatorConfig = CONFIG, catalog: Catalog = CATALOG
) -> tuple[ResolvedModel, ...]:
    """The models of a stored pipeline."""
    return resolve(parsed(raw), config=config, catalog=catalog)


def plan_of(pipeline: ModelPipeline, models: tuple[ResolvedModel, ...]) -> ScalingPlan:
    """A plan in which everybody gets what it wants."""
    scales = {}
    for model in models:
        scaling = model.spec.autoscaling
        bounds = (
            AutoscalerBounds(minimum=scaling.min_replicas, maximum=scaling.max_replicas)
            if scaling is not None
            else None
        )
        scales[model.name] = ModelScale(
            model=model.name,
            replicas=None if bounds else model.spec.wanted,
            autoscaler=bounds,
            target=model.spec.wanted,
        )
    return ScalingPlan(allocation=allocate(pipeline), scales=scales)


@dataclass(frozen=True)
class Installation:
    """An operator with its settings and a cluster that holds what it rendered last."""

    config: OperatorConfig = CONFIG
    catalog: Catalog = CATALOG
    children: Mapping[tuple[str, str], K8sObject] | None = None

    def rendered(self, raw: K8sObject) -> Rendered:
        """Everything that a pipeline needs."""
        pipeline = parsed(raw)
        models = resolve(pipeline, config=self.config, catalog=self.catalog)
        return render(
            pipeline,
            models=models,
            plan=plan_of(pipeline, models),
            observed=Observed(pipeline=raw, children=dict(self.children or {})),
            config=self.config,
        )

    def after(self, raw: K8sObject) -> Installation:
        """The installation after it applied a pipeline."""
        objects = copy.deepcopy(self.rendered(raw).objects)
        return replace(self, children={(o["kind"], o["metadata"]["name"]): o for o in objects})

    def child(self, kind: str, name: str) -> K8sObject:
        """An object that the cluster holds."""
        return copy.deepcopy((self.children or {})[kind, name])

    def without(self, kind: str, name: str) -> Installation:
        """The installation after somebody deleted an object."""
        kept = {key: value for key, value in (self.children or {}).items() if key != (kind, name)}
        return replace(self, children=kept)

    def holding(self, item: K8sObject) -> Installation:
        """The installation after somebody wrote an object."""
        key = (item["kind"], item["metadata"]["name"])
        return replace(self, children={**(self.children or {}), key: item})


def find(rendered: Rendered, kind: str, name: str) -> K8sObject:
    """The object of this kind and name."""
    return next(
        item
        for item in rendered.objects
        if (item["kind"], item["metadata"]["name"]) == (kind, name)
    )


def worker_of(deployment: K8sObject) -> dict[str, Any]:
    """The container that serves."""
    containers: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["containers"]
    return next(one for one in containers if one["name"] == "worker")
