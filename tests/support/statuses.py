"""Snapshots of a pipeline of two models, and the status that is built from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek_api.allocation import allocate
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_api.v1alpha1.status import ModelPipelineStatus
from deepseek_api.vocabulary import DeviceKind
from deepseek_operator import status
from deepseek_operator.config import OperatorConfig
from deepseek_operator.observed import Observed
from deepseek_operator.plan import (
    Finding,
    ModelScale,
    RenderedModel,
    ResolvedModel,
    ScalingPlan,
)

from tests.support.pods import deployment, pod

NOW = "2026-01-05T12:00:00Z"
LATER = "2026-01-05T12:05:00Z"
FIXED = ModelScale(model="bert", replicas=2, target=2)
Wire = dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    models: Mapping[str, RenderedModel]


@dataclass
class Case:
    """A snapshot of a pipeline of two models that wants 2 + 1 replicas."""

    pods: Sequence[Wire] = ()
    bert: Wire | None = field(default_factory=deployment)
    scale: ModelScale = FIXED
    scheduler: Wire = field(default_factory=dict)
    autoscaling: Wire | None = None
    findings: Sequence[Finding] = ()
    source: str = "oci://registry.example/bundles/bert:1"
    moving: bool = False
    unrendered: Sequence[str] = ()
    previous: Wire | None = None
    wall: str = NOW
    generation: int = 3

    def build(self) -> Wire:
        bert: Wire = {"name": "bert", "type": "NLP", "replicas": 2}
        if self.autoscaling:
            bert["autoscaling"] = self.autoscaling
        pipeline = ModelPipeline.model_validate(
            {
                "metadata": {"name": "joint", "namespace": "demo", "generation": self.generation},
                "spec": {
                    "models": [bert, {"name": "resnet", "type": "CV", "replicas": 1}],
                    "scheduler": self.scheduler,
                },
            }
        )
        models = [self._resolved(spec) for spec in pipeline.spec.models]
        scales = {"bert": self.scale, "resnet": ModelScale(model="resnet", replicas=1, target=1)}
        children = {
            ("Deployment", "joint-resnet"): deployment(replicas=1, name="joint-resnet"),
            **({("Deployment", "joint-bert"): self.bert} if self.bert else {}),
        }
        drawn = RenderedModel(template_hash="new", image="worker:1", worker_config={})
        made = status.build(
            pipeline,
            models=models,
            plan=ScalingPlan(allocation=allocate(pipeline), scales=scales, moving=self.moving),
            rendered=Drawn({m.name: drawn for m in models if m.name not in self.unrendered}),
            observed=Observed(
                pipeline={"metadata": {"uid": "u"}}, children=children, pods=tuple(self.pods)
            ),
            findings=self.findings,
            previous=self.previous,
            wall=self.wall,
            config=OperatorConfig(),
        )
        # What is written must be what the API takes.
        ModelPipelineStatus.model_validate(made)
        return made

    def _resolved(self, spec: Any) -> ResolvedModel:
        return ResolvedModel(
            spec=spec,
            type=spec.type,
            task=None,
            device=DeviceKind.CPU,
            gpus=0,
            source_uri=self.source if spec.name == "bert" else "oci://registry.example/resnet:1",
            source_revision=None,
            digest=None,
            secret_name=None,
            image="worker:1",
            memory_request=None,
            deployment=f"joint-{spec.name}",
        )


def berts(count: int, **more: Any) -> list[Wire]:
    return [pod(f"joint-bert-{n}", **{"ready": True, **more}) for n in range(count)]


RESNET = pod("joint-resnet-0", model="resnet", ready=True)


def conditions(made: Wire, model: str | None = None) -> dict[str, tuple[str, str]]:
    """Value and reason of every condition, by type."""
    entries = made["conditions"] if model is None else entry(made, model)["conditions"]
    return {item["type"]: (item["status"], item["reason"]) for item in entries}


def entry(made: Wire, model: str) -> Wire:
    return next(item for item in made["models"] if item["name"] == model)


def message(made: Wire, kind: str, model: str | None = None) -> str:
    entries = made["conditions"] if model is None else entry(made, model)["conditions"]
    return str(next(item["message"] for item in entries if item["type"] == kind))
