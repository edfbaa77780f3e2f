"""The status of a pipeline: what is true, as tables of snapshots."""

from __future__ import annotations

import pytest
from deepseek_api.v1alpha1.conditions import ConditionReason as Reason
from deepseek_api.v1alpha1.conditions import ConditionType as Type
from deepseek_operator import status
from deepseek_operator.plan import AutoscalerBounds, Finding, ModelScale
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pods import deployment, ended, pod, unscheduled, waiting
from tests.support.statuses import (
    LATER,
    NOW,
    RESNET,
    Case,
    Wire,
    berts,
    conditions,
    entry,
    message,
)

TYPES = {kind.value for kind in Type}


def test_a_served_pipeline_is_ready_and_settled() -> None:
    made = Case(pods=[*berts(2), RESNET]).build()
    assert conditions(made) == {
        "Ready": ("True", "AllReplicasReady"),
        "Progressing": ("False", "Settled"),
        "Degraded": ("False", "AsExpected"),
        "BudgetSufficient": ("True", "NoBudget"),
        "WeightsEffective": ("False", "NoBudget"),
        "ScalingConflict": ("False", "NoConflict"),
        "MetricsAvailable": ("True", "NotAutoscaled"),
        "NameConflict": ("False", "NoConflict"),
        "DeviceUnavailable": ("False", "DeviceAvailable"),
        "ChildRejected": ("False", "Accepted"),
    }
    assert (made["replicas"], made["modelNames"]) == ("3/3", "bert, resnet")
    assert made["observedGeneration"] == 3
    assert {item["observedGeneration"] for item in made["conditions"]} == {3}


def test_a_model_says_where_it_is_served_and_from_what() -> None:
    model = entry(Case(pods=[*berts(2), RESNET]).build(), "bert")
    assert {name: value for name, value in model.items() if name != "conditions"} == {
        "name": "bert",
        "type": "NLP",
        "replicas": 2,
        "readyReplicas": 2,
        "endpoint": "joint-bert.demo:8001",
        "source": "oci://registry.example/bundles/bert:1",
        "workerImage": "worker:1",
    }


NOT_READY = {
    "one is missing": berts(1),
    "one loads": [*berts(1), pod("x", container={"started": False})],
    "one is of an older template": [*berts(1), pod("x", template="old", ready=True)],
    "one is ending": [*berts(1), pod("x", ready=True, ending=True)],
    "one was evicted": [*berts(1), pod("x", ready=True, phase="Failed")],
    "none": [],
}


@pytest.mark.parametrize("pods", NOT_READY.values(), ids=NOT_READY)
def test_only_ready_pods_of_the_current_template_count(pods: list[Wire]) -> None:
    made = Case(pods=[*pods, RESNET]).build()
    assert conditions(made)["Ready"] == ("False", "ReplicasNotReady")
    assert conditions(made, "resnet")["Ready"] == ("True", "AllReplicasReady")
    assert conditions(made)["Degraded"] == ("False", "AsExpected")
    assert message(made, "Ready") == f"Not ready: bert {min(len(pods), 1)}/2."


PROGRESS = {
    "starting": ([*berts(1), pod("x")], {}, "Starting"),
    "not even created": ([], {}, "Starting"),
    "rolling out": ([*berts(2), pod("x", template="old", ready=True)], {}, "RollingOut"),
    "ending": ([*berts(2), pod("x", ready=True, ending=True)], {}, "Moving"),
    "waiting for another model": ([*berts(2)], {"moving": True}, "Moving"),
    "told to run fewer": ([*berts(2)], {"bert": deployment(replicas=1)}, "Moving"),
}


@pytest.mark.parametrize(("pods", "fields", "reason"), PROGRESS.values(), ids=PROGRESS)
def test_progress_has_a_reason(pods: list[Wire], fields: Wire, reason: str) -> None:
    made = Case(pods=[*pods, RESNET], **fields).build()
    assert conditions(made)["Progressing"] == ("True", reason)


def test_more_than_granted_is_ready_and_not_shown_as_a_puzzle() -> None:
    made = Case(pods=[*berts(3), RESNET]).build()
    assert conditions(made)["Ready"][0] == "True"
    assert (made["replicas"], entry(made, "bert")["readyReplicas"]) == ("3/3", 3)


@pytest.mark.parametrize(
    ("current", "expected"),
    [(3, 3), (1, 2), (9, 4), (None, 2)],
    ids=["inside", "below", "above", "not written yet"],
)
def test_under_an_autoscaler_its_number_within_the_bounds_is_granted(
    current: int | None, expected: int
) -> None:
    scale = ModelScale(
        model="bert", replicas=None, autoscaler=AutoscalerBounds(minimum=2, maximum=4), target=4
    )
    made = Case(
        pods=[*berts(expected), RESNET],
        scale=scale,
        autoscaling={"minReplicas": 2, "maxReplicas": 4},
        bert=deployment(replicas=current),
    ).build()
    assert entry(made, "bert")["replicas"] == expected
    assert conditions(made)["Ready"][0] == "True"
    assert conditions(made)["MetricsAvailable"] == ("True", "MetricsComplete")


def test_under_somebody_elses_autoscaler_its_number_counts() -> None:
    scale = ModelScale(model="bert", replicas=None, target=2)
    made = Case(pods=[*berts(5), RESNET], scale=scale, bert=deployment(replicas=5)).build()
    assert (entry(made, "bert")["replicas"], made["replicas"]) == (5, "6/6")
    assert conditions(made)["Progressing"] == ("False", "Settled")


def test_a_message_that_names_its_model_is_not_labelled_again() -> None:
    found = Finding(
        condition=Type.DEGRADED,
        reason=Reason.MODEL_UNKNOWN,
        message="What is 'bert'?",
        model="bert",
    )
    assert message(Case(findings=[found]).build(), "Degraded") == "What is 'bert'?"


def test_a_model_without_replicas_is_ready() -> None:
    none = ModelScale(model="bert", replicas=0, target=0)
    made = Case(pods=[RESNET], scale=none, bert=deployment(replicas=0)).build()
    assert conditions(made, "bert")["Ready"] == ("True", "NoReplicas")
    assert conditions(made)["Ready"] == ("True", "AllReplicasReady")
    assert made["replicas"] == "1/1"


def test_a_broken_model_is_degraded_alone_and_names_pod_and_cause() -> None:
    last = ended(1, message='{"reason": "DigestMismatch", "message": "The digest is another one."}')
    failing = pod("joint-bert-9", container=waiting("CrashLoopBackOff", lastState=last))
    made = Case(pods=[*berts(1), failing, RESNET]).build()
    assert conditions(made, "bert")["Degraded"] == ("True", "BundleInvalid")
    assert message(made, "Degraded", "bert") == "Pod joint-bert-9: The digest is another one."
    assert conditions(made)["Degraded"] == ("True", "BundleInvalid")
    assert message(made, "Degraded").startswith("bert: Pod joint-bert-9")
    assert conditions(made, "resnet")["Degraded"] == ("False", "AsExpected")
    assert conditions(made, "resnet")["Ready"] == ("True", "AllReplicasReady")


def test_causes_of_older_templates_and_of_spare_replicas_are_silent() -> None:
    old = pod("old", template="old", status=unscheduled("0/1 nodes are available"))
    spare = pod("spare", status=unscheduled("0/1 nodes are available"))
    assert conditions(Case(pods=[old, RESNET]).build())["Degraded"][0] == "False"
    assert conditions(Case(pods=[*berts(2), spare, RESNET]).build())["Degraded"][0] == "False"


def finding(kind: Type, reason: Reason, model: str | None = "bert") -> Finding:
    return Finding(condition=kind, reason=reason, message="So it is. Do that.", model=model)


@pytest.mark.parametrize(
    ("kind", "reason", "value", "degraded", "ready"),
    [
        (Type.DEGRADED, Reason.MODEL_UNKNOWN, "True", True, False),
        (Type.DEVICE_UNAVAILABLE, Reason.NO_IMAGE_FOR_DEVICE, "True", True, False),
        (Type.NAME_CONFLICT, Reason.FOREIGN_OBJECT, "True", True, False),
        (Type.CHILD_REJECTED, Reason.REJECTED_BY_SERVER, "True", True, True),
        (Type.SCALING_CONFLICT, Reason.FOREIGN_AUTOSCALER, "True", False, True),
        (Type.METRICS_AVAILABLE, Reason.METRIC_MISSING, "False", False, True),
    ],
)
def test_a_finding_shows_on_the_model_and_on_the_pipeline(
    kind: Type, reason: Reason, value: str, degraded: bool, ready: bool
) -> None:
    made = Case(pods=[*berts(2), RESNET], findings=[finding(kind, reason)]).build()
    for model in (None, "bert"):
        assert conditions(made, model)[kind] == (value, reason)
        assert "So it is. Do that." in message(made, kind, model)
        assert (conditions(made, model)["Degraded"][0] == "True") is degraded
        assert (conditions(made, model)["Ready"][0] == "True") is ready
    assert kind is Type.DEGRADED or kind not in conditions(made, "resnet")


def test_a_finding_about_the_pipeline_touches_no_model() -> None:
    found = finding(Type.CHILD_REJECTED, Reason.REJECTED_BY_SERVER, model=None)
    made = Case(pods=[*berts(2), RESNET], findings=[found, found]).build()
    assert conditions(made)["Degraded"] == ("True", "RejectedByServer")
    assert message(made, "Degraded") == "So it is. Do that."
    assert conditions(made, "bert")["Degraded"][0] == "False"


def test_replicas_of_the_last_good_spec_do_not_make_a_model_ready() -> None:
    previous = {"models": [{"name": "bert", "workerImage": "worker:0"}]}
    made = Case(pods=[*berts(2), RESNET], unrendered=["bert"], previous=previous).build()
    assert conditions(made, "bert")["Ready"] == ("False", "ReplicasNotReady")
    assert entry(made, "bert")["readyReplicas"] == 2
    assert entry(made, "bert")["workerImage"] == "worker:0"


def test_random_weights_are_marked() -> None:
    made = Case(pods=[*berts(2), RESNET], source="random://bert?seed=1").build()
    assert entry(made, "bert")["randomWeights"] is True
    assert "random" in message(made, "Ready", "bert")
    assert "bert" in message(made, "Ready")


@pytest.mark.parametrize(
    ("scheduler", "budget", "weights"),
    [
        ({}, ("True", "NoBudget"), ("False", "NoBudget")),
        ({"policy": "static"}, ("True", "NoBudget"), ("False", "StaticPolicy")),
        ({"budget": {"replicas": 3}}, ("True", "FloorsFit"), ("True", "WeightsApplied")),
        (
            {"budget": {"replicas": 1}},
            ("False", "FloorsExceedBudget"),
            ("True", "WeightsApplied"),
        ),
        (
            {
                "budget": {"replicas": 3},
                "priorityRules": [{"modelType": "Audio", "weight": 0.2}],
            },
            ("True", "FloorsFit"),
            ("True", "RuleWithoutModel"),
        ),
    ],
    ids=["no budget", "static", "fits", "too small", "rule without model"],
)
def test_budget_and_weights_are_explained(
    scheduler: Wire, budget: tuple[str, str], weights: tuple[str, str]
) -> None:
    found = conditions(Case(scheduler=scheduler).build())
    assert (found["BudgetSufficient"], found["WeightsEffective"]) == (budget, weights)


def test_allocation_is_written_with_the_time_of_its_last_change() -> None:
    first = Case(scheduler={"budget": {"replicas": 3}}).build()
    row = first["allocation"][0]
    assert (row["model"], row["granted"], row["lastChange"]) == ("bert", 2, NOW)
    assert set(row) == {
        "model",
        "weight",
        "demand",
        "floor",
        "cap",
        "entitled",
        "granted",
        "limitedBy",
        "lastChange",
    }
    smaller = Case(scheduler={"budget": {"replicas": 2}}, previous=first, wall=LATER).build()
    changes = {item["model"]: item["lastChange"] for item in smaller["allocation"]}
    assert changes == {"bert": LATER, "resnet": NOW}


def test_an_unchanged_cluster_gives_an_unchanged_status() -> None:
    case = Case(pods=[*berts(1), RESNET])
    first = case.build()
    case.previous, case.wall = first, LATER
    assert case.build() == first


def test_the_time_of_a_condition_changes_with_its_value_only() -> None:
    first = Case(pods=[RESNET]).build()
    second = Case(
        pods=[*berts(2), RESNET], previous=first, wall=LATER, generation=4
    ).build()  # fmt: skip
    times = {item["type"]: item["lastTransitionTime"] for item in second["conditions"]}
    assert times["Ready"] == times["Progressing"] == LATER
    assert times["Degraded"] == NOW
    assert {item["observedGeneration"] for item in second["conditions"]} == {4}


@pytest.mark.parametrize("previous", [{}, {"conditions": None}, {"models": "x", "allocation": [3]}])
def test_a_status_that_somebody_damaged_is_written_anew(previous: Wire) -> None:
    assert conditions(Case(pods=[*berts(2), RESNET], previous=previous).build()).keys() == TYPES


def test_a_pipeline_that_cannot_be_read_is_not_ready_and_keeps_the_rest() -> None:
    before = Case(pods=[*berts(2), RESNET]).build()
    raw = {"metadata": {"name": "joint", "generation": 9}}
    made = status.invalid(raw, text="Too odd.", previous=before, wall=LATER)
    found = conditions(made)
    assert found["Ready"] == ("False", "SpecInvalid")
    assert found["Degraded"] == ("True", "SpecInvalid")
    assert found["NameConflict"] == ("False", "NoConflict")
    assert made["models"] == before["models"]


@given(
    st.lists(
        st.builds(
            lambda number, ready, template, ending: pod(
                f"p{number}", ready=ready, template=template, ending=ending
            ),
            st.integers(0, 99),
            st.booleans(),
            st.sampled_from(["new", "old"]),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_ready_is_never_said_without_the_pods_to_show(pods: list[Wire]) -> None:
    made = Case(pods=[*pods, RESNET]).build()
    good = [
        one
        for one in pods
        if one["status"]["conditions"][1]["status"] == "True"
        and one["metadata"]["labels"]["deepseek.ai/template-hash"] == "new"
        and "deletionTimestamp" not in one["metadata"]
    ]
    assert (conditions(made)["Ready"][0] == "True") is (len(good) >= 2)
    if conditions(made)["Progressing"][0] == "False":
        assert conditions(made)["Ready"][0] == "True"
