"""The ModelPipeline types used from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_api.v1alpha1 import (
    Autoscaling,
    Condition,
    Model,
    ModelPipeline,
    ModelPipelineSpec,
    ModelPipelineStatus,
    ObjectMeta,
    Parallelism,
    Placement,
    Policy,
    Resources,
)
from pydantic import ValidationError

SEED = Path(__file__).parents[3] / "examples" / "nlp-vision-joint.yaml"


def test_defaults_are_those_of_the_api_and_nothing_more() -> None:
    spec = ModelPipelineSpec(models=(Model(name="bert-base"),))
    assert spec.placement is Placement.PER_MODEL
    assert spec.scheduler.policy is Policy.PRIORITY_BASED
    assert spec.models[0].to_wire() == {"name": "bert-base", "precision": "auto"}


def test_a_pipeline_survives_writing_and_reading() -> None:
    loaded = ModelPipeline.model_validate(yaml.safe_load(SEED.read_text("utf-8")))
    assert ModelPipeline.model_validate(loaded.to_wire(), by_alias=True, by_name=False) == loaded


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (Model(name="a"), 1),
        (Model(name="a", replicas=0), 0),
        (Model(name="a", replicas=4), 4),
        (Model(name="a", autoscaling=Autoscaling(min_replicas=3, max_replicas=5)), 3),
        (Model(name="a", replicas=4, autoscaling=Autoscaling(max_replicas=5)), 4),
    ],
    ids=["default", "zero", "written", "autoscaled", "both"],
)
def test_wanted_replicas_are_resolved_from_the_spec(model: Model, wanted: int) -> None:
    assert model.wanted == wanted


def test_devices_of_a_replica_are_tensor_times_pipeline() -> None:
    model = Model(name="a", parallelism=Parallelism(tensor=2, pipeline=3))
    assert model.devices_per_replica == 6


def test_what_autoscaler_metrics_say_is_passed_on_untouched() -> None:
    metric: dict[str, Any] = {
        "type": "Pods",
        "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "4"}},
    }
    scaling = Autoscaling.model_validate({"maxReplicas": 3, "metrics": [metric]})
    assert scaling.to_wire()["metrics"] == [metric]


@pytest.mark.parametrize("amount", [1, 0, "250m", "1.5Gi", "1e3", ".5", "2.", "+1", "100n"])
def test_an_amount_may_be_a_whole_number_or_a_quantity(amount: object) -> None:
    assert Resources.model_validate({"requests": {"cpu": amount}}).requests == {"cpu": amount}


@pytest.mark.parametrize("amount", [0.5, True, "", "1 Gi", "1GB", "Gi", "1e", "1" * 65, [1]])
def test_other_amounts_are_refused(amount: object) -> None:
    with pytest.raises(ValidationError, match="not a Kubernetes quantity"):
        Resources.model_validate({"requests": {"cpu": amount}})


def test_objects_are_immutable() -> None:
    model = Model(name="a")
    with pytest.raises(ValidationError, match="frozen"):
        model.replicas = 3  # type: ignore[misc]


def test_a_broken_rule_is_refused_in_python_too() -> None:
    spec = ModelPipelineSpec(models=(Model(name="a"),), placement=Placement.SHARED)
    with pytest.raises(ValidationError, match="placement Shared is not available"):
        ModelPipeline(metadata=ObjectMeta(name="demo"), spec=spec)


def test_an_object_of_the_server_with_a_newer_status_can_be_read() -> None:
    raw = yaml.safe_load(SEED.read_text("utf-8"))
    raw["metadata"] |= {"uid": "u", "resourceVersion": "1", "generation": 3, "managedFields": [{}]}
    raw["status"] = {
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "AllReplicasReady", "later": 1}
        ],
        "invented": {"in": "a later release"},
    }
    loaded = ModelPipeline.model_validate(raw)
    assert loaded.metadata.generation == 3
    assert loaded.status is not None
    assert loaded.status.conditions[0].reason == "AllReplicasReady"


def test_a_status_holds_one_condition_of_a_type() -> None:
    ready = Condition.model_validate({"type": "Ready", "status": "False", "reason": "Starting"})
    with pytest.raises(ValidationError, match="duplicate key"):
        ModelPipelineStatus(conditions=(ready, ready))
