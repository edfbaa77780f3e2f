"""From a plan to the objects that the cluster shall hold. Pure: no clock, no network.

Why it exists: the same pipeline, plan and snapshot always give the same objects, which golden files
show and drift is measured against. Whether anything has to be sent is decided in `drift` and
`applying`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deepseek_api.errors import ConfigurationError
from deepseek_api.v1alpha1.conditions import ConditionReason, ConditionType
from deepseek_api.v1alpha1.pipeline import ModelPipeline

from deepseek_operator import labels
from deepseek_operator.config import OperatorConfig
from deepseek_operator.observed import CHILD_KINDS, K8sObject, Observed
from deepseek_operator.plan import (
    Finding,
    ModelScale,
    RenderedModel,
    ResolvedModel,
    ScalingPlan,
)
from deepseek_operator.render import objects
from deepseek_operator.render.pinning import Pinned, kept, pin

__all__ = ["Rendered", "render", "replaced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What the cluster shall hold for a pipeline."""

    objects: tuple[K8sObject, ...]
    """In the order in which they are applied."""
    models: Mapping[str, RenderedModel]
    """By model; a model that cannot be served is missing."""
    findings: tuple[Finding, ...] = ()
    """What rendering found."""


def render(
    pipeline: ModelPipeline,
    *,
    models: Sequence[ResolvedModel],
    plan: ScalingPlan,
    observed: Observed,
    config: OperatorConfig,
) -> Rendered:
    """The objects of a pipeline.

    A model that cannot be served keeps the workers that it has, as they are, and gets no others.
    """
    owner = observed.pipeline
    found: list[K8sObject] = [objects.service_account(owner)]
    rendered: dict[str, RenderedModel] = {}
    findings: list[Finding] = []
    fetching: list[str] = []
    for model in models:
        pinned, finding = _pinned(model, observed, config)
        if finding is not None:
            findings.append(finding)
        elif pinned is not None and model.servable:
            rendered[model.name] = _summary(pinned)
        if pinned is not None:
            found += _of_model(owner, model, pinned, plan.scales[model.name])
            if pinned.prepare is not None:
                fetching.append(model.name)
    if config.network_policies:
        found.append(objects.network_policy(owner))
        if fetching:
            found.append(objects.prepare_policy(owner, fetching))
    order = {kind: place for place, kind in enumerate(CHILD_KINDS)}
    found.sort(key=lambda item: order[item["kind"]])
    return Rendered(objects=tuple(found), models=rendered, findings=tuple(findings))


def replaced(
    models: Sequence[ResolvedModel], *, observed: Observed, config: OperatorConfig
) -> frozenset[str]:
    """Models whose Deployment gets another pod template by `render`, so that its pods go."""
    found = set()
    for model in models:
        live = observed.child("Deployment", model.deployment)
        pinned, _ = _pinned(model, observed, config) if live is not None else (None, None)
        if live is not None and pinned is not None:
            metadata = live["spec"]["template"].get("metadata") or {}
            hashed = (metadata.get("labels") or {}).get(labels.TEMPLATE_HASH)
            if hashed != pinned.template_hash:
                found.add(model.name)
    return frozenset(found)


def _pinned(
    model: ResolvedModel, observed: Observed, config: OperatorConfig
) -> tuple[Pinned | None, Finding | None]:
    if not model.servable:
        return kept(model, observed=observed), None
    try:
        return pin(model, observed=observed, config=config), None
    except ConfigurationError as error:
        finding = Finding(
            condition=ConditionType.DEGRADED,
            reason=ConditionReason.SPEC_INVALID,
            message=f"{error.message} {error.hint or ''}".rstrip(),
            model=model.name,
        )
        return kept(model, observed=observed), finding


def _summary(pinned: Pinned) -> RenderedModel:
    return RenderedModel(
        template_hash=pinned.template_hash, image=pinned.image, worker_config=pinned.worker
    )


def _of_model(
    owner: K8sObject, model: ResolvedModel, pinned: Pinned, scale: ModelScale
) -> Iterator[K8sObject]:
    yield objects.config_map(owner, model, pinned)
    yield objects.service(owner, model)
    yield objects.headless_service(owner, model)
    yield objects.deployment(owner, model, pinned, scale)
    if scale.autoscaler is not None:
        yield objects.autoscaler(owner, model, scale.autoscaler)
    most = scale.autoscaler.maximum if scale.autoscaler is not None else scale.target
    if most > 1:
        yield objects.disruption_budget(owner, model)
