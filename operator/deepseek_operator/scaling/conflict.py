"""Autoscalers of somebody else on a model's Deployment.

Why it exists: two autoscalers on one target fight without an error anywhere, so the operator steps
back and says who is in the way. KEDA works through an autoscaler of its own, so it is found too.
"""

from __future__ import annotations

from deepseek_api.v1alpha1.conditions import ConditionReason, ConditionType

from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.plan import Finding, ResolvedModel
from deepseek_operator.scaling.live import mapping

__all__ = ["conflict"]


def conflict(model: ResolvedModel, observed: Observed) -> Finding | None:
    """The finding about foreign autoscalers of a model's Deployment, or None."""
    own = {name for kind, name in observed.children if kind == "HorizontalPodAutoscaler"}
    foreign = sorted(
        _described(scaler)
        for scaler in observed.autoscalers
        if scaler["metadata"]["name"] not in own and _targets(scaler, model.deployment)
    )
    if not foreign:
        return None
    verb, them = ("scales", "it") if len(foreign) == 1 else ("scale", "them")
    return Finding(
        condition=ConditionType.SCALING_CONFLICT,
        reason=ConditionReason.FOREIGN_AUTOSCALER,
        message=(
            f"{' and '.join(foreign)} {verb} Deployment '{model.deployment}', so the operator "
            f"leaves the replicas of model '{model.name}' alone. Delete {them} to let the pipeline "
            "scale the model."
        ),
        model=model.name,
    )


def _targets(scaler: K8sObject, deployment: str) -> bool:
    target = mapping(mapping(scaler.get("spec")).get("scaleTargetRef"))
    return target.get("kind") == "Deployment" and target.get("name") == deployment


def _described(scaler: K8sObject) -> str:
    metadata = scaler["metadata"]
    text = f"HorizontalPodAutoscaler '{metadata['name']}'"
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            return f"{text} of {owner['kind']} '{owner['name']}'"
    return text
