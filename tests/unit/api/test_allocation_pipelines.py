"""Properties of an allocation over random pipelines, 10,000 each, through the public function.

What each field means (bounds, weights of types, costs) is worked out here a second time, from the
reference page's words, so that a wrong reading of the spec cannot agree with itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from deepseek_api.allocation import AllocationRow, allocate
from deepseek_api.v1alpha1 import ModelPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.nearest import distance, smallest_distance

CATALOG = {"bert-base": "NLP", "resnet50": "CV"}
"""Names whose type the built-in catalog knows."""
NAMES = (*CATALOG, "c", "d", "e", "f")
TYPES = ("NLP", "CV", "LLM", "Audio")
HEADER, PER_MODEL = 9, 7
CASES = 10
"""Pipelines of one draw of Hypothesis, which is dearer than an allocation."""
each_on_10_000_pipelines = settings(max_examples=10_000 // CASES, deadline=None)


@dataclass(frozen=True)
class Case:
    """A pipeline as a user writes it, and live demands."""

    document: dict[str, Any]
    demands: dict[str, int]
    seed: int

    @property
    def models(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.document["spec"]["models"]
        return found

    @property
    def budget(self) -> dict[str, int]:
        found: dict[str, int] = self.document["spec"]["scheduler"].get("budget", {})
        return found

    def rows(self) -> list[AllocationRow]:
        pipeline = ModelPipeline.model_validate(self.document)
        return list(allocate(pipeline, demands=self.demands).rows)

    def inside(self) -> Iterator[tuple[dict[str, Any], AllocationRow]]:
        """The models that use the budget, with their rows."""
        for model, row in zip(self.models, self.rows(), strict=True):
            if self.cost(model) > 0:
                yield model, row

    def cost(self, model: dict[str, Any]) -> int:
        if "gpus" not in self.budget:
            return 1
        return model.get("parallelism", {}).get("tensor", 1) if model["device"] == "cuda" else 0

    def bounds(self, model: dict[str, Any]) -> tuple[int, int]:
        """Floor and the most that the model can use."""
        scaling = model.get("autoscaling")
        demand = self.demands.get(model["name"], wanted(model))
        if scaling is None:
            floor, cap = min(1, wanted(model)), wanted(model)
        else:
            floor, cap = scaling["minReplicas"], scaling["maxReplicas"]
        return floor, max(floor, min(demand, cap))


def wanted(model: dict[str, Any]) -> int:
    default = model["autoscaling"]["minReplicas"] if "autoscaling" in model else 1
    number: int = model.get("replicas", default)
    return number


def type_of(model: dict[str, Any]) -> str | None:
    return model.get("type") or CATALOG.get(model["name"])


def pipelines(*, most: int = len(NAMES), unit: bool = False) -> st.SearchStrategy[list[Case]]:
    """``CASES`` pipelines of up to ``most`` models; ``unit``: all with a budget of replicas."""
    width = HEADER + PER_MODEL * most

    def build(data: bytes) -> Case:
        count, kind, amount, seed, *weights = data[:HEADER]
        rows = [data[i : i + PER_MODEL] for i in range(HEADER, width, PER_MODEL)]
        chosen = list(zip(NAMES, rows[: 1 + count % most], strict=False))
        scheduler: dict[str, Any] = {"priorityRules": rules(weights)}
        unit_of_budget = "replicas" if unit else ("replicas", "gpus", "gpus", None)[kind % 4]
        if unit_of_budget is not None:
            scheduler["budget"] = {unit_of_budget: 1 + amount % (12 if unit else 40)}
        return Case(
            document={
                "metadata": {"name": "p"},
                "spec": {
                    "models": [model(name, row, small=unit) for name, row in chosen],
                    "scheduler": scheduler,
                },
            },
            demands={name: row[6] % 16 for name, row in chosen if row[6] >= 128},
            seed=seed,
        )

    drawn = st.binary(min_size=CASES * width, max_size=CASES * width)
    return drawn.map(lambda d: [build(d[i : i + width]) for i in range(0, len(d), width)])


def rules(weights: list[int]) -> list[dict[str, Any]]:
    """Rules for some of the types, in twentieths that add up to at most 1."""
    left, made = 20, []
    for kind, number in zip(TYPES, weights, strict=False):
        twentieths = min(left, number % 16)
        if twentieths:
            made.append({"modelType": kind, "weight": twentieths / 20})
            left -= twentieths
    return made


def model(name: str, row: bytes, *, small: bool) -> dict[str, Any]:
    kind, replicas, low, more, parts, has, _ = row
    top = 6 if small else 13
    made: dict[str, Any] = {"name": name, "device": "cuda" if parts % 4 else "cpu"}
    if kind % 6 < len(TYPES):
        made["type"] = TYPES[kind % 6]
    if made["device"] == "cuda" and has & 4:
        made["parallelism"] = {"tensor": 1 + parts % 5}
    if has & 1:
        least = 1 + low % 3
        made["autoscaling"] = {"minReplicas": least, "maxReplicas": least + more % (top - 3)}
        if has & 2:
            made["replicas"] = least + replicas % (1 + more % (top - 3))
    elif has & 2:
        made["replicas"] = replicas % top
    return made


@each_on_10_000_pipelines
@given(pipelines())
def test_a_budget_is_kept_used_and_floors_come_first(batch: list[Case]) -> None:
    for case in batch:
        rows = case.rows()
        costs = [case.cost(model) for model in case.models]
        bounds = [case.bounds(model) for model in case.models]
        if not case.budget:
            assert [row.granted for row in rows] == [upper for _, upper in bounds]
            continue
        (budget,) = case.budget.values()
        left = budget - sum(cost * row.granted for cost, row in zip(costs, rows, strict=True))
        floors_fit = sum(c * floor for c, (floor, _) in zip(costs, bounds, strict=True)) <= budget
        assert left >= 0, "over budget"
        for cost, (floor, upper), row in zip(costs, bounds, rows, strict=True):
            assert 0 <= row.granted <= upper
            assert row.granted == upper or cost > left, "idle capacity that somebody wants"
            assert not floors_fit or row.granted >= floor, "floor not met"


@each_on_10_000_pipelines
@given(pipelines())
def test_types_get_their_rule_and_the_others_share_the_rest_by_wanted_replicas(
    batch: list[Case],
) -> None:
    for case in batch:
        given_rules = {
            rule["modelType"]: Fraction(round(rule["weight"] * 20), 20)
            for rule in case.document["spec"]["scheduler"]["priorityRules"]
        }
        groups: dict[str | None, list[tuple[int, Fraction]]] = {}
        for model, row in case.inside():
            kind = type_of(model)
            group = kind if kind in given_rules else None
            groups.setdefault(group, []).append((wanted(model), row.weight))
        used = sum(share for kind, share in given_rules.items() if kind in groups)
        for kind, members in groups.items():
            share = given_rules[kind] if kind is not None else 1 - used
            total = sum(number for number, _ in members)
            for number, weight in members:
                assert weight * total == share * number


@each_on_10_000_pipelines
@given(pipelines())
def test_doing_it_again_in_another_order_gives_the_same(batch: list[Case]) -> None:
    for case in batch:
        first = {row.model: row for row in case.rows()}
        random.Random(case.seed).shuffle(case.models)
        assert {row.model: row for row in case.rows()} == first


@each_on_10_000_pipelines
@given(pipelines(most=4, unit=True))
def test_a_budget_of_replicas_is_shared_as_near_to_the_ideal_as_can_be(batch: list[Case]) -> None:
    for case in batch:
        rows = case.rows()
        ideal, granted = [row.entitled for row in rows], [row.granted for row in rows]
        assert distance(granted, ideal) < 1
        bounds = [case.bounds(model) for model in case.models]
        (budget,) = case.budget.values()
        if sum(floor for floor, _ in bounds) > budget:
            continue
        total = min(budget, sum(upper for _, upper in bounds))
        ranges = [range(floor, upper + 1) for floor, upper in bounds]
        assert distance(granted, ideal) == smallest_distance(ranges, ideal, total)
