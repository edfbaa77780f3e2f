"""What is true about each model: replicas that are ready, and why others are not.

Why it exists: a model is judged by its own pods alone, so that one broken model never hides that
the others serve. Only pods of the current template count: an old replica that still answers says
nothing about what the user wrote last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deepseek_api.v1alpha1.conditions import ConditionReason as Reason
from deepseek_api.v1alpha1.conditions import ConditionType as Type

from deepseek_operator.causes import Cause, causes
from deepseek_operator.labels import MODEL, TEMPLATE_HASH
from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.plan import (
    Finding,
    ModelScale,
    RenderedModel,
    ResolvedModel,
    ScalingPlan,
)
from deepseek_operator.status.conditions import Draft

__all__ = ["ModelState", "model_drafts", "states_of"]

DEGRADING: Final = frozenset(
    {Type.DEGRADED, Type.NAME_CONFLICT, Type.DEVICE_UNAVAILABLE, Type.CHILD_REJECTED}
)
"""Conditions whose findings keep a model from what its spec asks for."""
_BLOCKING: Final = DEGRADING - {Type.CHILD_REJECTED}
"""Conditions whose findings mean that the model is not served as it is written. A refused object
does not always: replicas that are ready serve without their autoscaler."""
_NOT_IN_EFFECT: Final = "What is written cannot be put into effect; see Degraded."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """What is true about one model."""

    model: ResolvedModel
    """The model."""
    granted: int
    """Replicas that it should have now."""
    ready: int
    """Pods of the current template that are ready."""
    running: int
    """Pods of any template that have not ended, those that are ending included."""
    outdated: int
    """Pods of older templates that are not ending."""
    wanted_now: int | None
    """Replicas that its Deployment is told to run; None: there is no Deployment."""
    image: str | None
    """The pinned worker image."""
    in_effect: bool
    """Whether what the user wrote could be rendered and applied."""
    problems: tuple[Cause, ...]
    """Why it is degraded; empty: it is not."""
    findings: tuple[Finding, ...]
    """All findings about it."""

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    @property
    def random_weights(self) -> bool:
        """Whether the answers are known to mean nothing."""
        return (self.model.source_uri or "").startswith("random://")

    @property
    def is_ready(self) -> bool:
        """Whether all granted replicas of the current template are ready."""
        return self.in_effect and self.ready >= self.granted

    @property
    def is_settled(self) -> bool:
        """Whether nothing is started, moved or replaced any more."""
        right = self.wanted_now == self.granted or (self.wanted_now is None and self.granted == 0)
        return self.is_ready and right and self.outdated == 0 and self.running == self.granted


def states_of(
    models: Sequence[ResolvedModel],
    *,
    plan: ScalingPlan,
    rendered: Mapping[str, RenderedModel],
    observed: Observed,
    findings: Iterable[Finding],
) -> tuple[ModelState, ...]:
    """The state of every model, in the order of the spec."""
    pods: dict[str, list[K8sObject]] = {}
    for pod in observed.pods:
        pods.setdefault(_label(pod, MODEL), []).append(pod)
    about: dict[str | None, list[Finding]] = {}
    for finding in findings:
        about.setdefault(finding.model, []).append(finding)
    return tuple(
        _state(
            model,
            scale=plan.scales.get(model.name, ModelScale(model=model.name, replicas=0)),
            rendered=rendered.get(model.name),
            observed=observed,
            pods=pods.get(model.name, []),
            findings=tuple(about.get(model.name, ())),
        )
        for model in models
    )


def _state(
    model: ResolvedModel,
    *,
    scale: ModelScale,
    rendered: RenderedModel | None,
    observed: Observed,
    pods: Sequence[K8sObject],
    findings: tuple[Finding, ...],
) -> ModelState:
    deployment = observed.child("Deployment", model.deployment)
    granted = _granted(scale, deployment)
    current_hash = rendered.template_hash if rendered else _hash_of(deployment)
    living = [pod for pod in pods if pod.get("status", {}).get("phase") not in _ENDED]
    staying = [pod for pod in living if "deletionTimestamp" not in pod["metadata"]]
    current = [pod for pod in staying if _label(pod, TEMPLATE_HASH) == current_hash]
    ready = sum(map(_is_ready, current))
    problems = [Cause(one.reason, one.message) for one in findings if one.condition in DEGRADING]
    if ready < granted:
        problems += causes(pods=current, deployment=deployment, events=observed.events)
    return ModelState(
        model=model,
        granted=granted,
        ready=ready,
        running=len(living),
        outdated=len(staying) - len(current),
        wanted_now=None if deployment is None else int(deployment["spec"].get("replicas", 1)),
        image=rendered.image if rendered else None,
        in_effect=rendered is not None and not any(f.condition in _BLOCKING for f in findings),
        problems=tuple(problems),
        findings=findings,
    )


_ENDED: Final = frozenset({"Failed", "Succeeded"})


def _granted(scale: ModelScale, deployment: K8sObject | None) -> int:
    if deployment is None or (scale.autoscaler is None and scale.replicas is not None):
        return scale.target
    current = int(deployment["spec"].get("replicas", 1))
    if scale.autoscaler is None:
        # Somebody else's autoscaler decides, and nobody here knows its bounds.
        return current
    # The autoscaler decides inside its bounds; the bounds are what was granted.
    return max(scale.autoscaler.minimum, min(current, scale.autoscaler.maximum))


def _hash_of(deployment: K8sObject | None) -> str:
    template = (deployment or {}).get("spec", {}).get("template", {})
    return str(template.get("metadata", {}).get("labels", {}).get(TEMPLATE_HASH, ""))


def _label(pod: K8sObject, label: str) -> str:
    return str(pod["metadata"].get("labels", {}).get(label, ""))


def _is_ready(pod: K8sObject) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def model_drafts(state: ModelState) -> list[Draft]:
    """The conditions of one model; those of conflicts only when there is one."""
    drafts = [_ready(state), _progressing(state), _degraded(state)]
    for kind in (
        Type.SCALING_CONFLICT,
        Type.METRICS_AVAILABLE,
        Type.NAME_CONFLICT,
        Type.DEVICE_UNAVAILABLE,
        Type.CHILD_REJECTED,
    ):
        own = [finding for finding in state.findings if finding.condition is kind]
        if own:
            holds = kind is not Type.METRICS_AVAILABLE
            message = " ".join(finding.message for finding in own)
            drafts.append(Draft(kind, holds, own[0].reason, message))
    return drafts


def _ready(state: ModelState) -> Draft:
    marked = " The weights are random: the answers mean nothing." if state.random_weights else ""
    counted = f"{min(state.ready, state.granted)} of {state.granted} replicas are ready."
    if not state.in_effect:
        text = f"{_NOT_IN_EFFECT} {counted}"
        return Draft(Type.READY, False, Reason.REPLICAS_NOT_READY, text)
    if state.granted == 0:
        return Draft(Type.READY, True, Reason.NO_REPLICAS, "It has no replica, as granted.")
    reason = Reason.ALL_REPLICAS_READY if state.is_ready else Reason.REPLICAS_NOT_READY
    return Draft(Type.READY, state.is_ready, reason, counted + marked)


def _progressing(state: ModelState) -> Draft:
    if state.is_settled or not state.in_effect:
        return Draft(Type.PROGRESSING, False, Reason.SETTLED, "Nothing is being changed.")
    if state.outdated:
        text = f"{state.outdated} replicas of an older template are being replaced."
        return Draft(Type.PROGRESSING, True, Reason.ROLLING_OUT, text)
    if state.ready < state.granted and state.running >= state.granted:
        text = f"{state.granted - state.ready} replicas start and load the model."
        return Draft(Type.PROGRESSING, True, Reason.STARTING, text)
    text = f"It goes from {state.running} to {state.granted} replicas."
    reason = Reason.STARTING if state.running < state.granted else Reason.MOVING
    return Draft(Type.PROGRESSING, True, reason, text)


def _degraded(state: ModelState) -> Draft:
    if not state.problems:
        return Draft(Type.DEGRADED, False, Reason.AS_EXPECTED, "Nothing failed.")
    message = " ".join(dict.fromkeys(problem.message for problem in state.problems))
    return Draft(Type.DEGRADED, True, state.problems[0].reason, message)
