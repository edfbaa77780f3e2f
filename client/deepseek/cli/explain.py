"""``deepseek explain``: how a pipeline in a cluster got its replicas, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from deepseek_api.allocation import Allocation, allocate
from deepseek_api.errors import DeepseekError
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_api.v1alpha1.status import ModelPipelineStatus
from deepseek_api.vocabulary import DeviceKind
from pydantic import ValidationError

from deepseek.cli._app import app
from deepseek.cli._cluster_options import ContextOption, NamespaceOption
from deepseek.cli._console import OutputFormat, bad, good, note, print_json, say, show
from deepseek.cli.plan import allocation_table

_WORTH_TELLING = {
    "ScalingConflict": "True",
    "MetricsAvailable": "False",
    "BudgetSufficient": "False",
    "WeightsEffective": "False",
    "NameConflict": "True",
    "DeviceUnavailable": "True",
    "ChildRejected": "True",
    "Degraded": "True",
}
"""Conditions of a pipeline that a person should read, with the value at which they matter."""
_LIMITS = {
    "demand": "It has all that it asks for.",
    "cap": "Its own upper bound keeps it from more.",
    "weight": "A larger weight could give it more.",
    "floor": "Its weight alone would give less; the floor lifts it to what it has.",
    "budget": "The budget holds no more; no weight could give it more.",
}


@dataclass(frozen=True, slots=True)
class Explained:
    """One model as a person wants to read about it."""

    model: str
    type: str | None
    weight: str
    demand: int | None
    entitled: str
    granted: int | None
    ready: int | None
    limited_by: str
    explanation: str
    endpoint: str | None
    random_weights: bool
    problems: tuple[tuple[str, str], ...]
    """Reason and message of what keeps it from being ready."""


@app.command(epilog="Example: deepseek explain nlp-vision-joint -n demo")
def explain(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline in the cluster.")],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How to print.")
    ] = OutputFormat.TABLE,
) -> None:
    """Say how many replicas each model of a running pipeline has, why, and what is wrong.

    It reads what the operator wrote into the pipeline's status.
    """
    from deepseek._cluster import Cluster

    cluster = Cluster.connect(context=context, namespace=namespace)
    raw = cluster.pipeline(pipeline)
    status = _status(raw)
    models = explained(raw, status)
    if output is OutputFormat.JSON:
        print_json(_document(raw, status, models))
    else:
        _print(raw, status, models)


def _status(raw: Mapping[str, Any]) -> ModelPipelineStatus:
    try:
        return ModelPipelineStatus.model_validate(raw.get("status") or {})
    except ValidationError as error:
        raise DeepseekError(
            f"The status of the pipeline cannot be read: {error.errors()[0]['msg']}.",
            hint="Use the release of this command that belongs to the operator.",
            reason="StatusUnreadable",
        ) from error


def explained(raw: Mapping[str, Any], status: ModelPipelineStatus) -> list[Explained]:
    """What there is to say about every model, in the order of the status."""
    sentences = _sentences(raw, status)
    states = {model.name: model for model in status.models}
    rows = []
    for row in status.allocation:
        state = states.get(row.model)
        word = row.limited_by or "-"
        problems = tuple(
            (condition.reason, condition.message)
            for condition in (state.conditions if state else ())
            if condition.type != "WeightsEffective"
            and condition.status.value == _WORTH_TELLING.get(condition.type)
        )
        rows.append(
            Explained(
                model=row.model,
                type=state.type if state else None,
                weight=row.weight or "-",
                demand=row.demand,
                entitled=row.entitled or "-",
                granted=row.granted,
                ready=state.ready_replicas if state else None,
                limited_by=word,
                explanation=sentences.get(row.model) or _LIMITS.get(word, ""),
                endpoint=state.endpoint if state else None,
                random_weights=bool(state and state.random_weights),
                problems=tuple(dict.fromkeys(problems)),
            )
        )
    return rows


def _sentences(raw: Mapping[str, Any], status: ModelPipelineStatus) -> dict[str, str]:
    """The arithmetic's own words, where it gives what the operator wrote."""
    allocation = _allocation(raw, status)
    granted = {row.model: row.granted for row in status.allocation}
    if allocation is None or allocation.granted != granted:
        return {}
    return {row.model: row.explanation for row in allocation.rows}


def _allocation(raw: Mapping[str, Any], status: ModelPipelineStatus) -> Allocation | None:
    types = {model.name: model.type for model in status.models}
    spec = dict(raw.get("spec") or {})
    # Types and devices may come from the cluster's catalog and settings; status knows the types.
    spec["models"] = [
        {"type": types[model["name"]], **model} if types.get(model["name"]) else model
        for model in spec.get("models", ())
    ]
    demands = {row.model: row.demand for row in status.allocation if row.demand is not None}
    metadata = {"name": raw["metadata"]["name"]}
    try:
        pipeline = ModelPipeline.model_validate({"metadata": metadata, "spec": spec})
        budget = pipeline.spec.scheduler.budget
        on_gpus = budget is not None and budget.gpus is not None
        device = DeviceKind.CUDA if on_gpus else DeviceKind.CPU
        return allocate(pipeline, demands=demands, default_device=device)
    except (ValidationError, DeepseekError):
        return None


def _document(
    raw: Mapping[str, Any], status: ModelPipelineStatus, models: list[Explained]
) -> dict[str, Any]:
    return {
        "pipeline": raw["metadata"]["name"],
        "namespace": raw["metadata"].get("namespace"),
        "ready": _holds(status, "Ready"),
        "upToDate": _is_up_to_date(raw, status),
        "replicas": status.replicas,
        "budget": (raw.get("spec", {}).get("scheduler") or {}).get("budget"),
        "models": [
            {
                "model": model.model,
                "type": model.type,
                "weight": model.weight,
                "demand": model.demand,
                "entitled": model.entitled,
                "granted": model.granted,
                "ready": model.ready,
                "limitedBy": model.limited_by,
                "explanation": model.explanation,
                "endpoint": model.endpoint,
                "randomWeights": model.random_weights,
                "problems": [
                    {"reason": reason, "message": message} for reason, message in model.problems
                ],
            }
            for model in models
        ],
        "conditions": [condition.to_wire() for condition in status.conditions],
    }


def _print(raw: Mapping[str, Any], status: ModelPipelineStatus, models: list[Explained]) -> None:
    metadata = raw["metadata"]
    title = f"{metadata.get('namespace', 'default')}/{metadata['name']}"
    if not status.conditions:
        say(f"{title}: the operator has written no status yet", style="bold")
        note("If this stays so, 'deepseek doctor --cluster' says what is missing.", style="yellow")
        return
    ready = "ready" if _holds(status, "Ready") else "not ready"
    say(f"{title}: {ready}, {status.replicas} replicas ready, {_budget(raw)}", style="bold")
    _table(models)
    say()
    for model in models:
        say(f"{model.model}: {model.explanation}")
    _details(models)
    _conditions(status, models)
    if not _is_up_to_date(raw, status):
        note("The operator has not looked at the latest change of the spec yet.", style="yellow")


def _table(models: list[Explained]) -> None:
    rows = []
    for model in models:
        done = model.ready is not None and model.ready >= (model.granted or 0)
        mark = good if done and not model.problems else bad
        rows.append(
            (
                model.model,
                model.type or "-",
                _percent(model.weight),
                _number(model.demand),
                model.entitled,
                _number(model.granted),
                mark(_number(model.ready)),
                model.limited_by,
            )
        )
    show(allocation_table(rows, ready=True))


def _details(models: list[Explained]) -> None:
    broken = [model for model in models if model.problems]
    if broken:
        say()
    for model in broken:
        for reason, message in model.problems:
            say(f"{model.model}: {reason}: {message}", style="red")
    served = [model for model in models if model.endpoint]
    if served:
        say()
    for model in served:
        marked = " (random weights: the answers mean nothing)" if model.random_weights else ""
        say(f"{model.model}: gRPC on {model.endpoint} inside the cluster{marked}")


def _conditions(status: ModelPipelineStatus, models: list[Explained]) -> None:
    said = {reason for model in models for reason, _ in model.problems}
    for condition in status.conditions:
        matters = condition.status.value == _WORTH_TELLING.get(condition.type)
        # Degraded repeats what was said about the models.
        if matters and condition.reason not in said:
            note(f"{condition.type}: {condition.reason}: {condition.message}", style="yellow")
        if condition.type == "Progressing" and condition.status.value == "True":
            note(f"{condition.reason}: {condition.message}")


def _budget(raw: Mapping[str, Any]) -> str:
    budget = (raw.get("spec", {}).get("scheduler") or {}).get("budget") or {}
    for unit, amount in budget.items():
        return f"budget {amount} {unit}"
    return "no budget"


def _holds(status: ModelPipelineStatus, kind: str) -> bool:
    return any(one.type == kind and one.status.value == "True" for one in status.conditions)


def _is_up_to_date(raw: Mapping[str, Any], status: ModelPipelineStatus) -> bool:
    generation = raw["metadata"].get("generation")
    return generation is None or status.observed_generation == generation


def _percent(weight: str) -> str:
    try:
        return f"{float(weight) * 100:.1f}".removesuffix(".0") + " %"
    except ValueError:
        return weight


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
