"""What a scale run applies, when, and how it knows that everything is there."""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from deepseek_api.catalog import builtin_catalog
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_operator import resolve, scaling
from deepseek_operator.config import OperatorConfig
from deepseek_operator.observed import Observed
from deepseek_operator.render import render

from benchmarks.scale_cluster import OPERATOR_USER, Flow, operator_rules, read_flow
from benchmarks.scale_load import ChildWatch, at_fixed_times, expected_children, models
from tests.support.pipelines_on_api import pipeline
from tests.unit.chart.rendering import Chart, needs_helm, only

CONFIG = OperatorConfig(images={"cpu": "worker"})


@pytest.mark.parametrize(("count", "scaled"), [(3, 1), (5, 1)])
def test_the_expected_children_are_those_that_the_operator_renders(count: int, scaled: int) -> None:
    raw = pipeline("p", models=models(count))
    wanted = ModelPipeline.model_validate(raw)
    raw["metadata"] |= {"namespace": "n", "uid": "u"}
    resolved = resolve.resolve(wanted, config=CONFIG, catalog=builtin_catalog())
    observed = Observed(pipeline=raw, children={})
    plan = scaling.plan(
        wanted, models=resolved, observed=observed, config=CONFIG, catalog=builtin_catalog(),
        now=0.0, wall="2026-05-04T10:00:00Z", pending={},
    )  # fmt: skip
    found = render(wanted, models=resolved, plan=plan, observed=observed, config=CONFIG)
    expected = expected_children(models(count))
    assert Counter(item["kind"] for item in found.objects) == expected
    assert expected["HorizontalPodAutoscaler"] == scaled


def test_calls_start_at_their_time_however_long_the_earlier_ones_take() -> None:
    started: dict[int, float] = {}
    others = threading.Event()

    def call(number: int) -> None:
        started[number] = time.monotonic()
        if number == 0:
            # The first call ends when the last has begun, which a loop that waits never reaches.
            assert others.wait(30)
        elif number == 4:
            others.set()

    planned = at_fixed_times(call, 5, every_s=0.02)
    gaps = [after - before for before, after in pairwise(planned)]
    assert gaps == pytest.approx([0.02] * 4)
    assert all(started[number] >= at for number, at in enumerate(planned))


def test_a_call_that_fails_fails_the_run() -> None:
    def call(_number: int) -> None:
        raise OSError("refused")

    with pytest.raises(OSError, match="refused"):
        at_fixed_times(call, 1, every_s=0.01)


def event(kind: str, name: str, pipeline: str | None = "p0") -> dict[str, Any]:
    labels = {"deepseek.ai/pipeline": pipeline} if pipeline else {}
    return {
        "type": kind,
        "object": {"metadata": {"namespace": "n", "name": name, "labels": labels}},
    }


def watch(expected: int) -> ChildWatch:
    return ChildWatch(1, ssl.create_default_context(), Counter({"Service": expected}))


def test_a_pipeline_is_complete_with_its_last_child() -> None:
    seen = watch(2)
    seen.note("Service", event("ADDED", "a"), 1.0)
    seen.note("Service", event("MODIFIED", "a"), 2.0)
    seen.note("Service", event("ADDED", "b", "p1"), 3.0)
    assert seen.complete() == {}
    seen.note("Service", event("ADDED", "b"), 4.0)
    seen.note("Service", event("ADDED", "b"), 5.0)
    assert seen.complete() == {("n", "p0"): 4.0}


def test_two_kinds_of_one_name_are_two_children() -> None:
    seen = watch(2)
    seen.note("Service", event("ADDED", "a"), 1.0)
    seen.note("Deployment", event("ADDED", "a"), 2.0)
    assert seen.complete() == {("n", "p0"): 2.0}


def test_what_is_deleted_no_longer_lives() -> None:
    seen = watch(9)
    seen.note("Service", event("ADDED", "a"), 1.0)
    seen.note("Service", event("ADDED", "b"), 1.0)
    seen.note("Service", event("DELETED", "a"), 2.0)
    assert seen.alive() == 1


@pytest.mark.parametrize(
    "strange",
    [event("BOOKMARK", "a"), event("ADDED", "a", None)],
    ids=["a bookmark", "no pipeline"],
)
def test_other_events_are_passed_over(strange: dict[str, Any]) -> None:
    seen = watch(1)
    seen.note("Service", strange, 1.0)
    assert (seen.complete(), seen.alive()) == ({}, 0)


def test_only_the_operators_requests_are_counted() -> None:
    own = f'flow_schema="{OPERATOR_USER}",priority_level="workload-high"'
    text = f"""\
# TYPE apiserver_flowcontrol_dispatched_requests_total counter
apiserver_flowcontrol_dispatched_requests_total{{{own}}} 120
apiserver_flowcontrol_dispatched_requests_total{{flow_schema="exempt"}} 9000
apiserver_flowcontrol_request_execution_seconds_sum{{{own},type="mutating"}} 1.5
apiserver_flowcontrol_request_execution_seconds_sum{{{own},type="readonly"}} 0.5
apiserver_flowcontrol_request_execution_seconds_count{{{own},type="readonly"}} 77
apiserver_flowcontrol_request_wait_duration_seconds_sum{{execute="true",{own}}} 0.25
"""
    assert read_flow(text) == Flow(requests=120, request_s=2.0, waited_s=0.25)


@needs_helm
def test_the_measured_operator_has_the_rules_of_the_chart(tmp_path: Any) -> None:
    assert operator_rules() == only(Chart(tmp_path).render(), "ClusterRole")["rules"]
