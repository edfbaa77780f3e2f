"""The conditions of a whole pipeline, from those of its models and from the arithmetic.

Why it exists: `kubectl wait` and alerts look at the pipeline. Every type is always present, with
a reason that says that all is well when it is, so that nobody waits for a condition that may
never appear.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseek_api.v1alpha1.conditions import ConditionReason as Reason
from deepseek_api.v1alpha1.conditions import ConditionType as Type
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_api.v1alpha1.scheduler import Policy

from deepseek_operator.plan import Finding, ScalingPlan
from deepseek_operator.status.conditions import Draft
from deepseek_operator.status.models import DEGRADING, ModelState

__all__ = ["pipeline_drafts"]


def pipeline_drafts(
    pipeline: ModelPipeline,
    *,
    states: Sequence[ModelState],
    plan: ScalingPlan,
    findings: Sequence[Finding],
) -> list[Draft]:
    """All conditions of a pipeline."""
    return [
        _ready(states),
        _progressing(states, plan),
        _degraded(states, findings),
        _budget(plan),
        _weights(pipeline, plan),
        _conflict(Type.SCALING_CONFLICT, findings, Reason.NO_CONFLICT, "No other autoscaler acts."),
        _metrics(states, findings),
        _conflict(Type.NAME_CONFLICT, findings, Reason.NO_CONFLICT, "Every name was free."),
        _conflict(
            Type.DEVICE_UNAVAILABLE,
            findings,
            Reason.DEVICE_AVAILABLE,
            "Every model has its device.",
        ),
        _conflict(
            Type.CHILD_REJECTED, findings, Reason.ACCEPTED, "The API server took every object."
        ),
    ]


def _ready(states: Sequence[ModelState]) -> Draft:
    waiting = [state for state in states if not state.is_ready]
    if waiting:
        text = ", ".join(
            f"{state.name} {min(state.ready, state.granted)}/{state.granted}" for state in waiting
        )
        return Draft(Type.READY, False, Reason.REPLICAS_NOT_READY, f"Not ready: {text}.")
    total = sum(state.granted for state in states)
    if not total:
        return Draft(Type.READY, True, Reason.NO_REPLICAS, "No model has a replica, as granted.")
    random = [state.name for state in states if state.random_weights]
    marked = f" Random weights, meaningless answers: {', '.join(random)}." if random else ""
    text = f"All {total} replicas are ready.{marked}"
    return Draft(Type.READY, True, Reason.ALL_REPLICAS_READY, text)


def _progressing(states: Sequence[ModelState], plan: ScalingPlan) -> Draft:
    if plan.moving:
        text = "Replicas move between models; the budget counts those that are still ending."
        return Draft(Type.PROGRESSING, True, Reason.MOVING, text)
    changing = [state for state in states if state.in_effect and not state.is_settled]
    if not changing:
        return Draft(Type.PROGRESSING, False, Reason.SETTLED, "Nothing is being changed.")
    outdated = [state.name for state in changing if state.outdated]
    if outdated:
        text = f"Replicas are being replaced: {', '.join(outdated)}."
        return Draft(Type.PROGRESSING, True, Reason.ROLLING_OUT, text)
    starting = [state.name for state in changing if not state.is_ready]
    if starting:
        text = f"Replicas start: {', '.join(starting)}."
        return Draft(Type.PROGRESSING, True, Reason.STARTING, text)
    text = f"Replicas end: {', '.join(state.name for state in changing)}."
    return Draft(Type.PROGRESSING, True, Reason.MOVING, text)


def _degraded(states: Sequence[ModelState], findings: Sequence[Finding]) -> Draft:
    problems = [
        (finding.reason, finding.message)
        for finding in findings
        if finding.model is None and finding.condition in DEGRADING
    ]
    problems += [
        (problem.reason, _named(state.name, problem.message))
        for state in states
        for problem in state.problems
    ]
    if not problems:
        return Draft(Type.DEGRADED, False, Reason.AS_EXPECTED, "Nothing failed.")
    text = " ".join(dict.fromkeys(message for _, message in problems))
    return Draft(Type.DEGRADED, True, problems[0][0], text)


def _budget(plan: ScalingPlan) -> Draft:
    allocation = plan.allocation
    if allocation.budget is None:
        text = "There is no budget; every model gets what it asks for."
        return Draft(Type.BUDGET_SUFFICIENT, True, Reason.NO_BUDGET, text)
    unit = allocation.unit.value
    if allocation.floors_fit:
        text = f"{allocation.used} of {allocation.budget} {unit} are granted."
        return Draft(Type.BUDGET_SUFFICIENT, True, Reason.FLOORS_FIT, text)
    needed = sum(row.floor * row.cost for row in allocation.rows)
    text = (
        f"The floors of all models need {needed} {unit} and the budget has {allocation.budget}. "
        "Raise the budget, or lower minReplicas."
    )
    return Draft(Type.BUDGET_SUFFICIENT, False, Reason.FLOORS_EXCEED_BUDGET, text)


def _weights(pipeline: ModelPipeline, plan: ScalingPlan) -> Draft:
    idle = plan.allocation.rules_without_model
    unused = f" No model has the type of these rules: {', '.join(idle)}." if idle else ""
    if pipeline.spec.scheduler.policy is Policy.STATIC:
        text = f"The policy static gives every model what it asks for.{unused}"
        return Draft(Type.WEIGHTS_EFFECTIVE, False, Reason.STATIC_POLICY, text)
    if not plan.allocation.weights_effective:
        text = (
            "There is no budget to share, so every model gets what it asks for. "
            f"Set scheduler.budget to make the weights count.{unused}"
        )
        return Draft(Type.WEIGHTS_EFFECTIVE, False, Reason.NO_BUDGET, text)
    reason = Reason.RULE_WITHOUT_MODEL if idle else Reason.WEIGHTS_APPLIED
    return Draft(Type.WEIGHTS_EFFECTIVE, True, reason, f"The weights share the budget.{unused}")


def _metrics(states: Sequence[ModelState], findings: Sequence[Finding]) -> Draft:
    found = _text(Type.METRICS_AVAILABLE, findings)
    if found is not None:
        return Draft(Type.METRICS_AVAILABLE, False, *found)
    if all(state.model.spec.autoscaling is None for state in states):
        return Draft(Type.METRICS_AVAILABLE, True, Reason.NOT_AUTOSCALED, "No model is autoscaled.")
    text = "Every metric of every autoscaler has a value."
    return Draft(Type.METRICS_AVAILABLE, True, Reason.METRICS_COMPLETE, text)


def _conflict(kind: Type, findings: Sequence[Finding], well: Reason, text: str) -> Draft:
    found = _text(kind, findings)
    return Draft(kind, False, well, text) if found is None else Draft(kind, True, *found)


def _text(kind: Type, findings: Sequence[Finding]) -> tuple[Reason, str] | None:
    own = [finding for finding in findings if finding.condition is kind]
    if not own:
        return None
    lines = (_named(one.model, one.message) for one in own)
    return own[0].reason, " ".join(dict.fromkeys(lines))


def _named(model: str | None, message: str) -> str:
    """The message with its model in front, unless it names the model itself."""
    return message if model is None or f"'{model}'" in message else f"{model}: {message}"
