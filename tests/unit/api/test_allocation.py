"""From a pipeline to granted replicas and reasons."""

from __future__ import annotations

import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from deepseek_api.allocation import Allocation, BudgetUnit, LimitedBy, allocate, format_share
from deepseek_api.catalog import builtin_catalog
from deepseek_api.errors import AllocationError
from deepseek_api.loading import load_pipeline_file
from deepseek_api.v1alpha1 import Budget, ModelPipeline, Policy, Scheduler
from deepseek_api.vocabulary import DeviceKind

SEED = Path(__file__).parents[3] / "examples" / "nlp-vision-joint.yaml"


def pipeline(
    models: list[dict[str, Any]],
    *,
    weights: Mapping[str, float] | None = None,
    budget: Mapping[str, int] | None = None,
) -> ModelPipeline:
    rules = [{"modelType": name, "weight": weight} for name, weight in (weights or {}).items()]
    scheduler: dict[str, Any] = {"priorityRules": rules}
    if budget is not None:
        scheduler["budget"] = budget
    return ModelPipeline.model_validate(
        {"metadata": {"name": "demo"}, "spec": {"models": models, "scheduler": scheduler}}
    )


def nlp_and_cv(replicas: int) -> list[dict[str, Any]]:
    return [
        {"name": "bert-base", "type": "NLP", "replicas": replicas},
        {"name": "resnet50", "type": "CV", "replicas": replicas},
    ]


def weights_of(allocation: Allocation) -> dict[str, Fraction]:
    return {row.model: row.weight for row in allocation.rows}


def test_the_file_of_the_first_page_gives_two_and_one() -> None:
    [(loaded, _)] = load_pipeline_file(SEED)
    assert allocate(loaded).granted == {"bert-base": 2, "resnet50": 1}


@pytest.mark.parametrize(
    ("replicas", "weights", "budget", "granted"),
    [
        (10, {"NLP": 0.7}, 10, (7, 3)),
        (20, {"NLP": 0.9, "CV": 0.1}, 20, (18, 2)),
        (20, {"NLP": 0.9, "CV": 0.1}, 40, (20, 20)),
        (20, {"NLP": 0.9, "CV": 0.1}, 1, (1, 0)),
        (20, {"NLP": 0.1, "CV": 0.9}, 1, (0, 1)),
        (20, {}, 11, (6, 5)),
        (20, {"NLP": 0.7, "LLM": 0.3}, 10, (7, 3)),
        (20, {"NLP": 0.8, "Audio": 0.2}, 10, (8, 2)),
        (20, {"NLP": 0.000001}, 20, (1, 19)),
        (0, {"NLP": 0.7}, 10, (0, 0)),
    ],
)
def test_a_budget_is_shared_by_weight(
    replicas: int, weights: dict[str, float], budget: int, granted: tuple[int, int]
) -> None:
    allocation = allocate(
        pipeline(nlp_and_cv(replicas), weights=weights, budget={"replicas": budget})
    )
    assert tuple(allocation.granted.values()) == granted


def test_models_of_a_type_divide_its_weight_by_wanted_replicas() -> None:
    models = [
        {"name": "a", "type": "NLP", "replicas": 3},
        {"name": "b", "type": "NLP", "replicas": 1},
        {"name": "c", "type": "CV", "replicas": 2},
        {"name": "d", "type": "Audio", "replicas": 6},
        {"name": "e", "type": "NLP", "replicas": 0},
    ]
    weights = weights_of(allocate(pipeline(models, weights={"NLP": 0.6})))
    assert weights == {
        "a": Fraction(9, 20),
        "b": Fraction(3, 20),
        "c": Fraction(1, 10),
        "d": Fraction(3, 10),
        "e": Fraction(0),
    }


def test_weights_are_the_decimals_that_were_written() -> None:
    models = [
        {"name": name, "type": kind}
        for name, kind in (("a", "A"), ("b", "B"), ("c", "C"), ("d", "D"))
    ]
    weights = {"A": 0.8, "B": 0.05, "C": 0.05, "D": 0.1}
    assert sum(weights_of(allocate(pipeline(models, weights=weights))).values()) == 1


def test_a_missing_type_is_the_catalogs() -> None:
    models = [{"name": "minilm", "replicas": 10}, {"name": "resnet50", "replicas": 10}]
    allocation = allocate(pipeline(models, weights={"NLP": 0.7}, budget={"replicas": 10}))
    assert [row.type for row in allocation.rows] == ["NLP", "CV"]
    assert allocation.granted == {"minilm": 7, "resnet50": 3}


def test_the_type_may_come_from_a_users_catalog() -> None:
    entry = builtin_catalog().get("minilm").to_wire() | {"type": "Search"}
    catalog = builtin_catalog().merged({"minilm": entry})
    allocation = allocate(pipeline([{"name": "minilm"}], weights={"Search": 0.4}), catalog=catalog)
    assert allocation.row("minilm").weight == Fraction(2, 5)


def test_a_model_of_unknown_type_shares_what_the_rules_leave() -> None:
    models = [{"name": "own", "replicas": 8}, {"name": "minilm", "replicas": 8}]
    allocation = allocate(pipeline(models, weights={"NLP": 0.75}, budget={"replicas": 8}))
    assert allocation.row("own").type is None
    assert allocation.granted == {"own": 2, "minilm": 6}


def test_models_without_weight_get_what_the_others_leave_by_wanted_replicas() -> None:
    models = [
        {"name": "a", "type": "NLP", "replicas": 4},
        {"name": "b", "type": "CV", "replicas": 8},
        {"name": "c", "type": "CV", "replicas": 4},
    ]
    allocation = allocate(pipeline(models, weights={"NLP": 1.0}, budget={"replicas": 10}))
    assert allocation.granted == {"a": 4, "b": 4, "c": 2}


def test_a_rule_without_a_model_is_reported() -> None:
    allocation = allocate(pipeline(nlp_and_cv(1), weights={"NLP": 0.5, "LLM": 0.5}))
    assert allocation.rules_without_model == ("LLM",)


def test_floor_and_cap_come_from_autoscaling() -> None:
    models = [{"name": "a", "autoscaling": {"minReplicas": 2, "maxReplicas": 5}}]
    row = allocate(pipeline(models)).row("a")
    assert (row.demand, row.floor, row.cap, row.granted) == (2, 2, 5, 2)


@pytest.mark.parametrize(
    ("demand", "granted", "limit"),
    [
        (0, 2, LimitedBy.DEMAND),
        (3, 3, LimitedBy.DEMAND),
        (5, 5, LimitedBy.DEMAND),
        (9, 5, LimitedBy.CAP),
    ],
)
def test_a_current_demand_moves_between_floor_and_cap(
    demand: int, granted: int, limit: LimitedBy
) -> None:
    models = [{"name": "a", "autoscaling": {"minReplicas": 2, "maxReplicas": 5}}]
    row = allocate(pipeline(models), demands={"a": demand}).row("a")
    assert (row.granted, row.limited_by) == (granted, limit)


def test_a_current_demand_does_not_change_the_weights() -> None:
    spec = pipeline(nlp_and_cv(10), weights={"NLP": 0.7}, budget={"replicas": 10})
    before = weights_of(allocate(spec))
    assert weights_of(allocate(spec, demands={"resnet50": 1})) == before


def test_a_gpu_budget_counts_gpus_and_leaves_cpu_models_out() -> None:
    models = [
        {"name": "a", "type": "NLP", "device": "cuda", "replicas": 4,
         "parallelism": {"tensor": 2}},
        {"name": "b", "type": "CV", "device": "cuda", "replicas": 4},
        {"name": "c", "type": "NLP", "device": "cpu", "replicas": 9},
    ]  # fmt: skip
    allocation = allocate(pipeline(models, weights={"NLP": 0.5, "CV": 0.5}, budget={"gpus": 8}))
    assert allocation.unit is BudgetUnit.GPUS
    assert [row.cost for row in allocation.rows] == [2, 1, 0]
    assert allocation.granted == {"a": 2, "b": 4, "c": 9}
    assert allocation.used == 8


@pytest.mark.parametrize(
    ("model", "default", "cost"),
    [
        ({}, DeviceKind.CPU, 0),
        ({}, DeviceKind.CUDA, 1),
        ({"device": "cpu"}, DeviceKind.CUDA, 0),
        ({"device": "cuda"}, DeviceKind.CPU, 1),
        ({"device": "cuda", "parallelism": {"tensor": 2, "pipeline": 3}}, DeviceKind.CPU, 6),
        ({"device": "cpu", "parallelism": {"tensor": 2}}, DeviceKind.CPU, 0),
        ({"gpus": 3}, DeviceKind.CPU, 3),
    ],
)
def test_the_cost_under_a_gpu_budget_is_the_gpus_of_a_replica(
    model: dict[str, Any], default: DeviceKind, cost: int
) -> None:
    spec = pipeline([{"name": "a", **model}], budget={"gpus": 100})
    assert allocate(spec, default_device=default).row("a").cost == cost


def test_small_replicas_fill_what_a_large_one_leaves() -> None:
    models = [
        {"name": "large", "type": "LLM", "device": "cuda", "replicas": 4,
         "parallelism": {"tensor": 4}},
        {"name": "small", "type": "CV", "device": "cuda", "replicas": 10},
    ]  # fmt: skip
    allocation = allocate(pipeline(models, weights={"LLM": 0.9}, budget={"gpus": 11}))
    assert allocation.granted == {"large": 2, "small": 3}


def test_floors_that_do_not_fit_are_filled_in_rounds_by_weight() -> None:
    models = [
        {"name": name, "type": kind, "autoscaling": {"minReplicas": 3, "maxReplicas": 9}}
        for name, kind in (("a", "A"), ("b", "B"), ("c", "C"))
    ]
    allocation = allocate(
        pipeline(models, weights={"A": 0.2, "B": 0.5, "C": 0.3}, budget={"replicas": 5})
    )
    assert not allocation.floors_fit
    assert allocation.granted == {"a": 1, "b": 2, "c": 2}
    assert all(row.entitled == row.granted for row in allocation.rows)
    assert {row.limited_by for row in allocation.rows} == {LimitedBy.BUDGET}


def test_without_a_budget_weights_are_not_effective() -> None:
    assert not allocate(pipeline(nlp_and_cv(1), weights={"NLP": 0.7})).weights_effective
    with_budget = pipeline(nlp_and_cv(1), weights={"NLP": 0.7}, budget={"replicas": 5})
    assert allocate(with_budget).weights_effective


def test_static_gives_everybody_what_it_asks_for() -> None:
    spec = pipeline(nlp_and_cv(4), weights={"NLP": 0.7})
    static = Scheduler(policy=Policy.STATIC)
    changed = spec.model_copy(update={"spec": spec.spec.model_copy(update={"scheduler": static})})
    assert allocate(changed).granted == {"bert-base": 4, "resnet50": 4}


def test_static_with_a_budget_is_refused() -> None:
    spec = pipeline(nlp_and_cv(4))
    # A file with both does not even load; this is for callers that build the object.
    static = Scheduler(policy=Policy.STATIC, budget=Budget(replicas=4))
    changed = spec.model_copy(update={"spec": spec.spec.model_copy(update={"scheduler": static})})
    with pytest.raises(AllocationError, match="policy: priority-based") as caught:
        allocate(changed)
    assert caught.value.reason == "StaticWithBudget"


@pytest.mark.parametrize(
    ("demands", "text"),
    [({"bert-bse": 1}, "Did you mean 'bert-base'"), ({"bert-base": -1}, "is -1")],
    ids=["unknown-model", "negative"],
)
def test_a_wrong_demand_is_refused(demands: dict[str, int], text: str) -> None:
    with pytest.raises(AllocationError, match=text):
        allocate(pipeline(nlp_and_cv(1)), demands=demands)


def test_the_allocation_as_json() -> None:
    spec = pipeline(nlp_and_cv(10), weights={"NLP": 0.7}, budget={"replicas": 9})
    wire = allocate(spec).to_wire()
    assert wire["budget"] == {"replicas": 9}
    assert wire["models"][0] == {
        "model": "bert-base",
        "type": "NLP",
        "weight": "0.7",
        "demand": 10,
        "floor": 1,
        "cap": 10,
        "cost": 1,
        "entitled": "6.3",
        "granted": 6,
        "limitedBy": "weight",
        "explanation": "Weight 0.7 entitles it to 6.3 replicas within the budget of 9 replicas, "
        "rounded down: it gets 6 of the 10 it could use.",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(7), "7"),
        (Fraction(0), "0"),
        (Fraction(20, 3), "6.6667"),
        (Fraction(1, 2), "0.5"),
        (Fraction(100), "100"),
    ],
)
def test_exact_shares_are_shown_with_four_decimals(value: Fraction, text: str) -> None:
    assert format_share(value) == text


def test_the_largest_pipeline_is_shared_out_at_once() -> None:
    models = [
        {"name": f"m{index}", "type": f"T{index % 32}", "replicas": 1 + index * 13 % 1000}
        for index in range(64)
    ]
    weights = {f"T{index}": 0.03 for index in range(32)}
    spec = pipeline(models, weights=weights, budget={"replicas": 12_345})
    start = time.process_time()
    allocation = allocate(spec)
    assert time.process_time() - start < 1.0
    assert allocation.used == 12_345
