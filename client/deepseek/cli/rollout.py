"""``deepseek rollout``: new replicas for a pipeline, or for one of its models."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from deepseek_api.errors import ConfigurationError, DeepseekError, ErrorCode
from deepseek_api.suggest import did_you_mean

from deepseek._cluster import Cluster
from deepseek.cli._app import app
from deepseek.cli._cluster_options import ContextOption, NamespaceOption
from deepseek.cli._console import note, plural, say

ROLLOUT_AT = "deepseek.ai/rollout-at"
"""Annotation on a pipeline that asks the operator for new replicas."""
PINNED = "deepseek.ai/pinned"
"""Annotation on a Deployment that says which rollout its replicas belong to."""
PIPELINE = "deepseek.ai/pipeline"
MODEL = "deepseek.ai/model"
POLL_S = 1.0


@app.command(epilog="Example: deepseek rollout nlp-vision-joint --model bert-base --wait")
def rollout(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline in the cluster.")],
    model: Annotated[
        str | None, typer.Option(help="Only this model. Default: all of them.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the new replicas are ready.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Longest wait, seconds.", min=1)] = 600,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Replace the replicas of a running pipeline by new ones, with the operator's current images.

    Nothing else does: an upgrade of the operator keeps the replicas that serve.
    """
    cluster = Cluster.connect(context=context, namespace=namespace)
    models = [entry["name"] for entry in cluster.pipeline(pipeline)["spec"]["models"]]
    if model is not None and model not in models:
        raise ConfigurationError(
            f"The pipeline '{pipeline}' has no model '{model}'.",
            hint=did_you_mean(model, models) or f"Its models: {', '.join(models)}.",
        )
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    cluster.annotate(pipeline, {ROLLOUT_AT: at if model is None else f"{at}/{model}"})
    chosen = models if model is None else [model]
    say(f"Asked for new replicas of {', '.join(chosen)}.")
    if wait:
        _wait(cluster, pipeline, models=chosen, at=at, timeout_s=timeout)
        say(f"{plural(len(chosen), 'model')} replaced.")


def _wait(cluster: Cluster, pipeline: str, *, models: list[str], at: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    said = ""
    while True:
        listed = cluster.deployments(f"{PIPELINE}={pipeline}")
        by_model = {_label(one, MODEL): one for one in listed}
        missing = [name for name in models if not is_done(by_model.get(name), at)]
        if not missing:
            return
        if time.monotonic() >= deadline:
            raise DeepseekError(
                f"After {timeout_s:g} s these models still wait for new replicas: "
                f"{', '.join(missing)}.",
                hint=f"See why: deepseek explain {pipeline} -n {cluster.namespace}",
                code=ErrorCode.DEADLINE_EXCEEDED,
                reason="RolloutUnfinished",
            )
        line = f"Waiting for {', '.join(missing)} ..."
        if line != said:
            note(line)
            said = line
        time.sleep(POLL_S)


def is_done(deployment: Mapping[str, Any] | None, at: str) -> bool:
    """Whether the replicas of a Deployment are those of the rollout of this time, and ready."""
    if deployment is None or _rollout_of(deployment) != at:
        return False
    status, metadata = deployment.get("status", {}), deployment["metadata"]
    if status.get("observedGeneration", 0) < metadata.get("generation", 0):
        return False
    wanted = deployment["spec"].get("replicas", 1)
    counts = ("replicas", "updatedReplicas", "readyReplicas")
    return all(status.get(name, 0) == wanted for name in counts)


def _rollout_of(deployment: Mapping[str, Any]) -> str:
    annotations = deployment["metadata"].get("annotations") or {}
    try:
        pinned = json.loads(annotations.get(PINNED, "{}"))
    except ValueError:
        return ""
    # The operator may keep the time alone or the whole value with the model's name.
    return str(pinned.get("rolloutAt") or "").partition("/")[0]


def _label(deployment: Mapping[str, Any], label: str) -> str:
    return str((deployment["metadata"].get("labels") or {}).get(label, ""))
