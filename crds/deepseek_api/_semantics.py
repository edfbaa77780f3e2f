"""Checks that need more than one object's schema: sums of amounts, the catalog, other documents.

Why it exists: the API server accepts these files and the user would learn of the mistake later,
from a condition. Use ``deepseek_api.loading`` instead of this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from deepseek_api._claims import model_type
from deepseek_api._diagnostics import Finding
from deepseek_api.catalog import Catalog, builtin_catalog
from deepseek_api.suggest import did_you_mean
from deepseek_api.v1alpha1.model import Model
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_api.v1alpha1.scheduler import Policy

__all__ = ["problems", "quantity", "warnings"]

_SUFFIXES: Final[dict[str, Fraction]] = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{suffix: Fraction(1000**power) for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Fraction(1024**power) for power, suffix in enumerate("KMGTPE", start=1)},
}


def quantity(value: object) -> Fraction:
    """The exact value of a Kubernetes quantity such as ``250m`` or ``1.5Gi``."""
    text = str(value)
    number = text.rstrip("KMGTPEinumk")
    if text[-1].isdigit() or text[-1] == ".":
        return Fraction(text.rstrip("."))
    return Fraction(number.rstrip(".")) * _SUFFIXES[text[len(number) :]]


def problems(pipeline: ModelPipeline, catalog: Catalog | None) -> Iterator[Finding]:
    """What would fail after the API server accepted the object.

    Args:
        pipeline: a valid pipeline.
        catalog: the models that can be named without a source; None: not checked.
    """
    for index, model in enumerate(pipeline.spec.models):
        path = ("spec", "models", index)
        yield from _resource_problems(model, path)
        if catalog is not None and model.source is None:
            yield from _catalog_problems(model, path, catalog)


def _resource_problems(model: Model, path: tuple[str | int, ...]) -> Iterator[Finding]:
    if model.resources is None:
        return
    limits = model.resources.limits or {}
    for name, request in (model.resources.requests or {}).items():
        if name in limits and quantity(request) > quantity(limits[name]):
            yield Finding(
                (*path, "resources", "requests", name),
                f"The request of {name} is {request}, more than its limit of {limits[name]}.",
                "Lower the request or raise the limit.",
                reason="RequestAboveLimit",
            )


def _catalog_problems(
    model: Model, path: tuple[str | int, ...], catalog: Catalog
) -> Iterator[Finding]:
    entry = catalog.find(model.name)
    if entry is None:
        guess = did_you_mean(model.name, catalog.names())
        # A model's name is a DNS label; the catalog knows names that are not.
        usable = [name for name in catalog.names() if "_" not in name and "." not in name]
        hint = f"Add 'source.uri', or name one of: {', '.join(usable)}."
        yield Finding(
            (*path, "name"),
            f"Model '{model.name}' has no source, and the catalog does not know its name.",
            f"{guess} {hint}" if guess else hint,
            reason="UnknownModel",
        )
    elif entry.availability is not None:
        yield Finding(
            (*path, "name"),
            f"Model '{model.name}' cannot run: {entry.availability}",
            None,
            reason="ModelNotAvailable",
        )


def warnings(pipeline: ModelPipeline, catalog: Catalog | None) -> Iterator[Finding]:
    """What is allowed and probably not meant."""
    scheduler = pipeline.spec.scheduler
    path = ("spec", "scheduler", "priorityRules")
    if scheduler.policy is Policy.STATIC and scheduler.priority_rules:
        yield Finding(
            path,
            "priorityRules have no effect with policy static.",
            "Write policy: priority-based, or remove the rules.",
            reason="StaticPolicy",
        )
    known = catalog if catalog is not None else builtin_catalog()
    present = {model_type(model, known) for model in pipeline.spec.models}
    for index, rule in enumerate(scheduler.priority_rules):
        # A model without a known type may turn out to have this one.
        if rule.model_type not in present and None not in present:
            names = sorted(name for name in present if name)
            yield Finding(
                (*path, index, "modelType"),
                f"No model has the type '{rule.model_type}', so this rule has no effect.",
                did_you_mean(rule.model_type, names) or f"The types are {', '.join(names)}.",
                reason="RuleWithoutModel",
            )
