"""Puts the status of a pipeline together.

Why it exists: it joins the parts (models, allocation, conditions) and keeps the times of what did
not change, so that an unchanged cluster gives an unchanged status and no write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from deepseek_api.allocation import AllocationRow, format_share
from deepseek_api.v1alpha1.conditions import ConditionReason as Reason
from deepseek_api.v1alpha1.conditions import ConditionType as Type
from deepseek_api.v1alpha1.pipeline import ModelPipeline

from deepseek_operator.config import OperatorConfig
from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.plan import Finding, RenderedModel, ResolvedModel, ScalingPlan
from deepseek_operator.status.conditions import Draft, dated
from deepseek_operator.status.models import ModelState, model_drafts, states_of
from deepseek_operator.status.pipeline import pipeline_drafts

__all__ = ["Rendered", "build", "invalid"]

_MAX_NAMES = 4096


class Rendered(Protocol):
    """What rendering gave, as far as status needs it."""

    @property
    def models(self) -> Mapping[str, RenderedModel]:
        """By model; a model that cannot be served is missing."""


def build(
    pipeline: ModelPipeline,
    *,
    models: Sequence[ResolvedModel],
    plan: ScalingPlan,
    rendered: Rendered,
    observed: Observed,
    findings: Sequence[Finding],
    previous: Mapping[str, Any] | None,
    wall: str,
    config: OperatorConfig,
) -> dict[str, Any]:
    """The status of a pipeline in wire form.

    Args:
        pipeline: what the user wants.
        models: its models with everything filled in.
        plan: how many replicas each gets.
        rendered: what was rendered.
        observed: what the cluster holds after applying.
        findings: what rendering and applying found; those of ``models`` and ``plan`` are added.
        previous: the status that is there, for the times in it.
        wall: now, RFC 3339.
        config: settings of the operator.
    """
    before: Mapping[str, Any] = previous or {}
    known = tuple(
        dict.fromkeys(
            (*findings, *plan.findings, *(one for model in models for one in model.findings))
        )
    )
    states = states_of(
        models, plan=plan, rendered=rendered.models, observed=observed, findings=known
    )
    generation = pipeline.metadata.generation
    status: dict[str, Any] = {
        "conditions": dated(
            pipeline_drafts(pipeline, states=states, plan=plan, findings=known),
            previous=before.get("conditions"),
            generation=generation,
            wall=wall,
        ),
        "observedGeneration": generation,
        "replicas": _display(states),
        "modelNames": _names(states),
        "models": [
            _model(state, previous=before, namespace=pipeline.metadata.namespace)
            | {
                "conditions": dated(
                    model_drafts(state),
                    previous=_of_name(before.get("models"), "name", state.name).get("conditions"),
                    generation=generation,
                    wall=wall,
                )
            }
            for state in states
        ],
        "allocation": [_row(row, before, wall) for row in plan.allocation.rows],
    }
    return {name: value for name, value in status.items() if value is not None}


def invalid(
    pipeline: K8sObject, *, text: str, previous: Mapping[str, Any] | None, wall: str
) -> dict[str, Any]:
    """The status of a stored pipeline that cannot be read: not ready, and the rest as it was.

    Args:
        pipeline: the object as it is stored.
        text: why it cannot be read.
        previous: the status that is there.
        wall: now, RFC 3339.
    """
    before = dict(previous or {})
    generation = pipeline["metadata"].get("generation")
    old = before.get("conditions")
    message = f"The spec cannot be read, so nothing is changed: {text}"
    drafts = [
        Draft(Type.READY, False, Reason.SPEC_INVALID, message),
        Draft(Type.DEGRADED, True, Reason.SPEC_INVALID, message),
    ]
    new = dated(drafts, previous=old, generation=generation, wall=wall)
    kinds = {entry["type"] for entry in new}
    kept = [
        entry
        for entry in (old if isinstance(old, list) else ())
        if isinstance(entry, dict) and entry.get("type") not in kinds
    ]
    return {**before, "conditions": new + kept}


def _display(states: Sequence[ModelState]) -> str:
    # More than granted can be ready for a moment; "4/3" would only puzzle.
    ready = sum(min(state.ready, state.granted) for state in states)
    return f"{ready}/{sum(state.granted for state in states)}"


def _names(states: Sequence[ModelState]) -> str:
    text = ", ".join(state.name for state in states)
    return text if len(text) <= _MAX_NAMES else text[: _MAX_NAMES - 1] + "…"


def _model(
    state: ModelState, *, previous: Mapping[str, Any], namespace: str | None
) -> dict[str, Any]:
    model = state.model
    before = _of_name(previous.get("models"), "name", state.name)
    entry = {
        "name": state.name,
        "type": model.type,
        "replicas": state.granted,
        "readyReplicas": state.ready,
        "endpoint": f"{model.deployment}.{namespace or 'default'}:8001",
        "source": model.source_uri,
        "digest": model.digest,
        "randomWeights": True if state.random_weights else None,
        "workerImage": state.image or before.get("workerImage"),
    }
    return {name: value for name, value in entry.items() if value is not None}


def _row(row: AllocationRow, previous: Mapping[str, Any], wall: str) -> dict[str, Any]:
    before = _of_name(previous.get("allocation"), "model", row.model)
    kept = before.get("lastChange") if before.get("granted") == row.granted else None
    return {
        "model": row.model,
        "weight": format_share(row.weight),
        "demand": row.demand,
        "floor": row.floor,
        "cap": row.cap,
        "entitled": format_share(row.entitled),
        "granted": row.granted,
        "limitedBy": row.limited_by.value,
        "lastChange": kept or wall,
    }


def _of_name(entries: object, key: str, name: str) -> Mapping[str, Any]:
    if isinstance(entries, list):
        for entry in entries:
            if isinstance(entry, dict) and entry.get(key) == name:
                return entry
    return {}
