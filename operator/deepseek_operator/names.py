"""Names of the objects that the operator creates.

Why it exists: names are API (clients dial them) and never change, so each is a function of the
pipeline's and the model's name alone. `PIPELINE-MODEL` of `a-b` and `c` is also that of `a` and
`b-c`; whoever came first keeps it, and the other gets the condition ``NameConflict``.
"""

from __future__ import annotations

from typing import Final

from deepseek_operator.hashing import short_hash

__all__ = ["MAX_LENGTH", "deployment_name", "headless_name", "prepare_policy_name", "worker_name"]

MAX_LENGTH: Final = 63
"""Characters of a DNS label, and so of a Service's name."""
_HEADLESS: Final = "-headless"
_DIGITS: Final = 8


def deployment_name(pipeline: str, model: str) -> str:
    """Name of a model's Deployment, Service, autoscaler, disruption budget and ConfigMap.

    Args:
        pipeline: name of the pipeline.
        model: name of the model.
    """
    # Model `m-headless` must not meet the headless Service of model `m`.
    reserved = model.endswith(_HEADLESS)
    return _fitting(f"{pipeline}-{model}", identity=(pipeline, model), always_hashed=reserved)


def headless_name(pipeline: str, model: str) -> str:
    """Name of a model's headless Service."""
    name = f"{deployment_name(pipeline, model)}{_HEADLESS}"
    return _fitting(name, identity=(pipeline, model), suffix=_HEADLESS)


def worker_name(pipeline: str) -> str:
    """Name of a pipeline's ServiceAccount and NetworkPolicy."""
    return _fitting(f"{pipeline}-worker", identity=(pipeline,), suffix="-worker")


def prepare_policy_name(pipeline: str) -> str:
    """Name of the NetworkPolicy of replicas that fetch their weights themselves."""
    return _fitting(f"{pipeline}-prepare", identity=(pipeline,), suffix="-prepare")


def _fitting(
    name: str, *, identity: tuple[str, ...], suffix: str = "", always_hashed: bool = False
) -> str:
    if len(name) <= MAX_LENGTH and not always_hashed:
        return name
    # A hash of the parts and not of the name: `a-b` and `c` differ from `a` and `b-c` here.
    tail = f"-{short_hash(identity, length=_DIGITS)}{suffix}"
    start = name.removesuffix(suffix)[: MAX_LENGTH - len(tail)]
    return f"{start.rstrip('-')}{tail}"
