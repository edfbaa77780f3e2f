"""Rules that a schema cannot say, written once for the API server and for Python.

Why it exists: the CRD carries each rule in CEL and the command line checks it in Python; a user
must meet the same sentence at the same field in both places. Each row holds both forms side by
side, and the text is made from one template. A rule belongs here only if the API server can check
it on one object; anything that needs the catalog or the cluster does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from deepseek_api.v1alpha1.autoscaling import Autoscaling
from deepseek_api.v1alpha1.metadata import NAME_PATTERN, ObjectMeta
from deepseek_api.v1alpha1.model import Batching, Model
from deepseek_api.v1alpha1.scheduler import Budget, Policy, PriorityRule, Scheduler
from deepseek_api.vocabulary import DeviceKind, Precision, TaskName

if TYPE_CHECKING:
    from deepseek_api.v1alpha1.pipeline import ModelPipeline, ModelPipelineSpec

__all__ = ["RULES", "Rule", "Violation", "violations"]

T = TypeVar("T")

WEIGHT_SUM_LIMIT = 1.000001
"""Weights such as 0.8 + 0.05 + 0.05 + 0.1 add up to a little more than 1 in binary."""


@dataclass(frozen=True, slots=True)
class Rule(Generic[T]):
    """One rule in both forms."""

    cel: str
    """The rule in CEL; ``self`` is the object that the rule stands at."""
    holds: Callable[[T], bool]
    """The same rule in Python."""
    message: str
    """What is wrong, one sentence; ``%`` placeholders take ``values`` in order."""
    hint: str
    """What to write instead, one sentence; continues with the placeholders."""
    values: tuple[tuple[str, Callable[[T], object]], ...] = ()
    """For each placeholder its CEL expression and its Python form."""
    field: str = ""
    """The field that is wrong, below the object that the rule stands at."""

    def to_cel(self) -> dict[str, Any]:
        """The item of ``x-kubernetes-validations``."""
        item: dict[str, Any] = {"rule": self.cel}
        template = f"{self.message} {self.hint}"
        if self.values:
            arguments = ", ".join(expression for expression, _ in self.values)
            item["messageExpression"] = f"{json.dumps(template)}.format([{arguments}])"
        else:
            item["message"] = template
        if self.field:
            item["fieldPath"] = f".{self.field}"
            item["reason"] = "FieldValueInvalid"
        return item

    def violation(self, subject: T, path: str) -> Violation | None:
        """The violation by this object at this path, or None when the rule holds."""
        if self.holds(subject):
            return None
        texts = [self.message, self.hint]
        values = [value(subject) for _, value in self.values]
        for index, text in enumerate(texts):
            count = text.replace("%%", "").count("%")
            texts[index] = text % tuple(values[:count]) if self.values else text
            del values[:count]
        where = ".".join(part for part in (path, self.field) if part)
        return Violation(path=where, message=texts[0], hint=texts[1])


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that does not hold."""

    path: str
    """The field, for example ``spec.models[0].replicas``."""
    message: str
    """What is wrong."""
    hint: str
    """What to write instead."""


METADATA_RULES: tuple[Rule[ObjectMeta], ...] = (
    Rule(
        cel=f"self.metadata.name.size() <= 63 && self.metadata.name.matches('{NAME_PATTERN}')",
        holds=lambda meta: meta.has_pipeline_name,
        message="metadata.name must be a DNS label that starts with a letter.",
        hint="Write at most 63 lower-case letters, digits and '-', first a letter, last a letter "
        "or digit.",
        field="metadata.name",
    ),
)

SPEC_RULES: tuple[Rule[ModelPipelineSpec], ...] = (
    Rule(
        cel="self.placement != 'Shared'",
        holds=lambda spec: spec.placement != "Shared",
        message="placement Shared is not available in this release.",
        hint="Write placement: PerModel, or leave the field out.",
        field="placement",
    ),
)

MODEL_RULES: tuple[Rule[Model], ...] = (
    Rule(
        cel="!has(self.autoscaling) || !has(self.replicas) || "
        "(self.replicas >= self.autoscaling.minReplicas && "
        "self.replicas <= self.autoscaling.maxReplicas)",
        holds=lambda m: (
            m.autoscaling is None
            or m.replicas is None
            or m.autoscaling.min_replicas <= m.replicas <= m.autoscaling.max_replicas
        ),
        message="replicas of model '%s' is %d, outside minReplicas %d and maxReplicas %d of its "
        "autoscaling.",
        hint="Write a number between them, or leave replicas out.",
        values=(
            ("self.name", lambda m: m.name),
            ("self.replicas", lambda m: m.replicas),
            (
                "self.autoscaling.minReplicas",
                lambda m: m.autoscaling and m.autoscaling.min_replicas,
            ),
            (
                "self.autoscaling.maxReplicas",
                lambda m: m.autoscaling and m.autoscaling.max_replicas,
            ),
        ),
        field="replicas",
    ),
    Rule(
        cel="!has(self.device) || self.device != 'cpu' || !has(self.gpus) || self.gpus == 0",
        holds=lambda m: m.device is not DeviceKind.CPU or not m.gpus,
        message="gpus of model '%s' is %d, but its device is cpu.",
        hint="Write device: cuda, or leave gpus out.",
        values=(("self.name", lambda m: m.name), ("self.gpus", lambda m: m.gpus)),
        field="gpus",
    ),
    Rule(
        cel="!has(self.device) || self.device == 'cpu' || !has(self.gpus) || self.gpus == "
        "(has(self.parallelism) ? self.parallelism.tensor * self.parallelism.pipeline : 1)",
        holds=lambda m: (
            m.device in (None, DeviceKind.CPU) or m.gpus is None or m.gpus == m.devices_per_replica
        ),
        message="gpus of model '%s' is %d, but parallelism tensor x pipeline is %d.",
        hint="Write that product as gpus, or leave gpus out.",
        values=(
            ("self.name", lambda m: m.name),
            ("self.gpus", lambda m: m.gpus),
            (
                "has(self.parallelism) ? self.parallelism.tensor * self.parallelism.pipeline : 1",
                lambda m: m.devices_per_replica,
            ),
        ),
        field="gpus",
    ),
    Rule(
        cel="!has(self.quantization) || "
        "!(has(self.quantization.scheme) || has(self.quantization.groupSize)) || "
        "!(self.precision in ['fp32', 'fp16', 'bf16'])",
        holds=lambda m: (
            m.quantization is None
            or (m.quantization.scheme is None and m.quantization.group_size is None)
            or m.precision not in (Precision.FP32, Precision.FP16, Precision.BF16)
        ),
        message="quantization of model '%s' names a scheme or groupSize, but precision %s is not "
        "quantized.",
        hint="Write another precision such as int8, or leave scheme and groupSize out.",
        values=(
            ("self.name", lambda m: m.name),
            ("self.precision", lambda m: m.precision.value),
        ),
        field="quantization",
    ),
    Rule(
        cel="!has(self.generation) || !has(self.task) || self.task == 'generate'",
        holds=lambda m: m.generation is None or m.task in (None, TaskName.GENERATE),
        message="generation of model '%s' is set, but its task is %s.",
        hint="Write task: generate, or leave generation out.",
        values=(("self.name", lambda m: m.name), ("self.task", lambda m: m.task)),
        field="generation",
    ),
    Rule(
        cel="!has(self.adapters) || self.adapters.size() == 0 || !has(self.task) || "
        "self.task == 'generate'",
        holds=lambda m: not m.adapters or m.task in (None, TaskName.GENERATE),
        message="adapters of model '%s' are set, but its task is %s.",
        hint="Write task: generate, or leave adapters out.",
        values=(("self.name", lambda m: m.name), ("self.task", lambda m: m.task)),
        field="adapters",
    ),
)

AUTOSCALING_RULES: tuple[Rule[Autoscaling], ...] = (
    Rule(
        cel="self.minReplicas <= self.maxReplicas",
        holds=lambda a: a.min_replicas <= a.max_replicas,
        message="minReplicas %d is greater than maxReplicas %d.",
        hint="Raise maxReplicas or lower minReplicas.",
        values=(
            ("self.minReplicas", lambda a: a.min_replicas),
            ("self.maxReplicas", lambda a: a.max_replicas),
        ),
        field="minReplicas",
    ),
)

BATCHING_RULES: tuple[Rule[Batching], ...] = (
    Rule(
        cel="!has(self.maxBatchSize) || !has(self.maxQueueSize) || "
        "self.maxQueueSize >= self.maxBatchSize",
        holds=lambda b: (
            b.max_batch_size is None
            or b.max_queue_size is None
            or b.max_queue_size >= b.max_batch_size
        ),
        message="maxQueueSize %d is smaller than maxBatchSize %d, so no full batch can wait.",
        hint="Raise maxQueueSize or lower maxBatchSize.",
        values=(
            ("self.maxQueueSize", lambda b: b.max_queue_size),
            ("self.maxBatchSize", lambda b: b.max_batch_size),
        ),
        field="maxQueueSize",
    ),
)

SCHEDULER_RULES: tuple[Rule[Scheduler], ...] = (
    Rule(
        cel="self.policy != 'static' || !has(self.budget)",
        holds=lambda s: s.policy is not Policy.STATIC or s.budget is None,
        message="budget cannot be set with policy static, which gives every model what it asks "
        "for.",
        hint="Write policy: priority-based, or leave budget out.",
        field="budget",
    ),
)

PRIORITY_RULES_RULES: tuple[Rule[tuple[PriorityRule, ...]], ...] = (
    Rule(
        cel=f"self.map(r, double(r.weight)).sum() <= {WEIGHT_SUM_LIMIT}",
        holds=lambda rules: sum(rule.weight for rule in rules) <= WEIGHT_SUM_LIMIT,
        message="weights of priorityRules add up to %.4f, which is more than 1.",
        hint="Lower them until the sum is at most 1.",
        values=(
            (
                "self.map(r, double(r.weight)).sum()",
                lambda rules: sum(rule.weight for rule in rules),
            ),
        ),
    ),
)

BUDGET_RULES: tuple[Rule[Budget], ...] = (
    Rule(
        cel="!(has(self.replicas) && has(self.gpus))",
        holds=lambda b: b.replicas is None or b.gpus is None,
        message="budget has both replicas and gpus.",
        hint="Keep the one that is to be limited.",
    ),
    Rule(
        cel="has(self.replicas) || has(self.gpus)",
        holds=lambda b: b.replicas is not None or b.gpus is not None,
        message="budget has neither replicas nor gpus.",
        hint="Write one of them, for example replicas: 10, or leave budget out.",
    ),
)


RULES: Mapping[str, tuple[Rule[Any], ...]] = MappingProxyType(
    {
        "ModelPipeline": METADATA_RULES,
        "ModelPipelineSpec": SPEC_RULES,
        "Model": MODEL_RULES,
        "Autoscaling": AUTOSCALING_RULES,
        "Batching": BATCHING_RULES,
        "Scheduler": SCHEDULER_RULES,
        "Scheduler.priorityRules": PRIORITY_RULES_RULES,
        "Budget": BUDGET_RULES,
    }
)
"""Every rule by the place it stands at: a type's name, or ``TYPE.field`` for a list."""


def violations(pipeline: ModelPipeline) -> list[Violation]:
    """Every rule that does not hold, in the order of the object's fields."""
    return list(_violations(pipeline))


def _violations(pipeline: ModelPipeline) -> Iterator[Violation]:
    spec = pipeline.spec
    yield from _apply(METADATA_RULES, pipeline.metadata, "")
    yield from _apply(SPEC_RULES, spec, "spec")
    for index, model in enumerate(spec.models):
        path = f"spec.models[{index}]"
        yield from _apply(MODEL_RULES, model, path)
        if model.autoscaling is not None:
            yield from _apply(AUTOSCALING_RULES, model.autoscaling, f"{path}.autoscaling")
        if model.batching is not None:
            yield from _apply(BATCHING_RULES, model.batching, f"{path}.batching")
    path = "spec.scheduler"
    yield from _apply(SCHEDULER_RULES, spec.scheduler, path)
    yield from _apply(PRIORITY_RULES_RULES, spec.scheduler.priority_rules, f"{path}.priorityRules")
    if spec.scheduler.budget is not None:
        yield from _apply(BUDGET_RULES, spec.scheduler.budget, f"{path}.budget")


def _apply(rules: tuple[Rule[T], ...], subject: T, path: str) -> Iterator[Violation]:
    for rule in rules:
        violation = rule.violation(subject, path)
        if violation is not None:
            yield violation
