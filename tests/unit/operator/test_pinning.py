"""Which changes lead to new replicas, and which never do."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from deepseek_operator import labels
from deepseek_operator.config import DrainSettings
from deepseek_operator.drift import differs
from deepseek_operator.observed import K8sObject
from deepseek_operator.render import Rendered

from tests.support.rendering import (
    CATALOG,
    CONFIG,
    Installation,
    find,
    one_model,
    worker_of,
)

NAME = "shop-bert-base"
NEWER = CONFIG.model_copy(
    update={
        "images": {"cpu": "example.com/worker-cpu:2", "cuda": "example.com/worker-cuda:2"},
        "torch_image": "example.com/worker-cuda:2",
        "drain": DrainSettings(grace_s=90),
        "image_pull_policy": "Always",
        "image_pull_secrets": ("other",),
        "device_resources": {"cuda": "example.com/gpu"},
    }
)
CHEAPER = CATALOG.merged(
    {"bert-base": CATALOG.get("bert-base").to_wire() | {"memoryRequest": "3Gi", "type": "LLM"}}
)


def template(rendered: Rendered) -> Any:
    return find(rendered, "Deployment", NAME)["spec"]["template"]


def image(rendered: Rendered) -> str:
    return str(worker_of(find(rendered, "Deployment", NAME))["image"])


def raw_and_installation(**fields: Any) -> tuple[K8sObject, Installation]:
    raw = one_model(**fields)
    return raw, Installation().after(raw)


def with_rollout(raw: K8sObject, value: str | None) -> K8sObject:
    metadata = {k: v for k, v in raw["metadata"].items() if k != "annotations"}
    if value is not None:
        metadata["annotations"] = {labels.ROLLOUT_AT: value}
    return {**raw, "metadata": metadata}


KEEPS: dict[str, dict[str, Any]] = {
    "another number of replicas": {"replicas": 5},
    "an autoscaler": {"autoscaling": {"maxReplicas": 5}},
    "another type": {"type": "CV"},
    "another way of replacing": {"rollout": {"strategy": "Auto"}},
    "a default that is written down": {"precision": "auto"},
}


@pytest.mark.parametrize("case", KEEPS)
def test_these_edits_of_the_model_restart_nothing(case: str) -> None:
    raw, installation = raw_and_installation()
    before = installation.rendered(raw)
    after = replace(installation, config=NEWER).rendered(one_model(**KEEPS[case]))
    assert template(after) == template(before)


def test_an_owner_reference_of_an_older_release_is_repaired_and_restarts_nothing() -> None:
    raw, installation = raw_and_installation()
    live = installation.child("Deployment", NAME)
    live["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = False
    after = find(installation.holding(live).rendered(raw), "Deployment", NAME)
    assert differs(after, live)
    assert after["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] is True
    assert after["spec"]["template"] == live["spec"]["template"]


@pytest.mark.parametrize("source", [None, {"uri": "oci://example.com/bert:1"}])
def test_another_operator_and_another_catalog_restart_nothing(source: Any) -> None:
    raw, installation = raw_and_installation(source=source)
    before = installation.rendered(raw)
    after = replace(installation, config=NEWER, catalog=CHEAPER).rendered(raw)
    assert template(after) == template(before)
    kinds = ("Deployment", "ConfigMap")
    specs = [
        [find(one, kind, NAME).get("spec") or find(one, kind, NAME)["data"] for kind in kinds]
        for one in (before, after)
    ]
    assert specs[0] == specs[1]
    assert after.models == before.models


def test_an_edit_of_the_weights_restarts_nothing() -> None:
    raw, installation = raw_and_installation()
    edited = {**raw, "spec": {**raw["spec"]}}
    edited["spec"]["scheduler"] = {"priorityRules": [{"modelType": "NLP", "weight": 0.4}]}
    assert template(installation.rendered(edited)) == template(installation.rendered(raw))


CHANGES: dict[str, dict[str, Any]] = {
    "resources": {"resources": {"requests": {"cpu": "2"}}},
    "the source": {"source": {"uri": "oci://example.com/bert:2"}},
    "the digest": {"source": {"uri": "oci://example.com/bert:1", "digest": "sha256:" + "1" * 64}},
    "precision": {"precision": "int8"},
    "the device": {"device": "cuda"},
    "batching": {"batching": {"maxBatchSize": 4}},
    "the overlay": {"podTemplate": {"spec": {"priorityClassName": "high"}}},
}


@pytest.mark.parametrize("case", CHANGES)
def test_an_edit_of_what_the_replicas_are_restarts_them_with_the_current_image(case: str) -> None:
    raw, installation = raw_and_installation()
    before = installation.rendered(raw)
    after = replace(installation, config=NEWER).rendered(one_model(**CHANGES[case]))
    assert after.models["bert-base"].template_hash != before.models["bert-base"].template_hash
    assert image(after).endswith(":2")


def test_another_raw_source_restarts_the_replicas() -> None:
    # Template and settings of the worker are equal: only the request to prepare differs.
    raw, installation = raw_and_installation(source={"uri": "hf://a/b"})
    after = installation.rendered(one_model(source={"uri": "hf://a/c"}))
    before = installation.rendered(raw)
    assert after.models["bert-base"].template_hash != before.models["bert-base"].template_hash


@pytest.mark.parametrize("value", ["2026-05-04T10:00:00Z", "2026-05-04T10:00:00Z/bert-base"])
def test_a_rollout_restarts_the_replicas_with_the_current_image_once(value: str) -> None:
    raw, installation = raw_and_installation()
    before = installation.rendered(raw)
    asked = with_rollout(raw, value)
    upgraded = replace(installation, config=NEWER)
    after = upgraded.rendered(asked)
    assert image(after) == "example.com/worker-cpu:2"
    assert template(after) != template(before)
    pinned = json.loads(find(after, "Deployment", NAME)["metadata"]["annotations"][labels.PINNED])
    assert pinned["rolloutAt"] == "2026-05-04T10:00:00Z"
    assert template(upgraded.after(asked).rendered(asked)) == template(after)


def test_a_rollout_restarts_replicas_whose_image_is_the_same() -> None:
    raw, installation = raw_and_installation()
    after = installation.rendered(with_rollout(raw, "2026-05-04T10:00:00Z"))
    assert template(after) != template(installation.rendered(raw))


@pytest.mark.parametrize("later", [None, "2026-05-05T10:00:00Z/other"])
def test_a_rollout_that_was_followed_stays_followed(later: str | None) -> None:
    raw, installation = raw_and_installation()
    asked = with_rollout(raw, "2026-05-04T10:00:00Z")
    followed = replace(installation.after(asked), config=NEWER)
    after = followed.rendered(with_rollout(raw, later))
    assert template(after) == template(followed.rendered(asked))
    assert image(after) == "example.com/worker-cpu:1"


def test_a_rollout_of_another_model_restarts_nothing() -> None:
    raw, installation = raw_and_installation()
    asked = with_rollout(raw, "2026-05-04T10:00:00Z/other")
    upgraded = replace(installation, config=NEWER)
    assert template(upgraded.rendered(asked)) == template(installation.rendered(raw))


def status_of(source: str, *, rejected: bool = False) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": "bert-base",
        "source": source,
        "workerImage": "example.com/worker-cpu:1",
    }
    if rejected:
        row["conditions"] = [{"type": "ChildRejected", "status": "True"}]
    return {"models": [row]}


DELETED: dict[str, tuple[dict[str, Any] | None, str]] = {
    "the same source": (status_of("oci://example.com/bert:1"), "example.com/worker-cpu:1"),
    "another source": (status_of("oci://example.com/old:1"), "example.com/worker-cpu:2"),
    "refused by the server": (
        status_of("oci://example.com/bert:1", rejected=True),
        "example.com/worker-cpu:2",
    ),
    "no status": (None, "example.com/worker-cpu:2"),
}


@pytest.mark.parametrize("case", DELETED)
def test_a_deleted_deployment_comes_back_with_the_image_that_status_names(case: str) -> None:
    status, expected = DELETED[case]
    raw, installation = raw_and_installation()
    gone = replace(installation.without("Deployment", NAME), config=NEWER)
    assert image(gone.rendered({**raw, "status": status} if status else raw)) == expected


def broken(raw: K8sObject) -> K8sObject:
    """The same pipeline with a source that is refused."""
    return one_model(source={"uri": "file:///x"})


def test_a_model_that_cannot_be_served_gets_no_workers() -> None:
    rendered = Installation().rendered(broken(one_model()))
    assert {item["kind"] for item in rendered.objects} == {"ServiceAccount", "NetworkPolicy"}
    assert rendered.models == {}


def test_workers_of_a_model_that_cannot_be_served_any_more_stay_as_they_are() -> None:
    raw, installation = raw_and_installation(replicas=2)
    before = installation.rendered(raw)
    after = replace(installation, config=NEWER).rendered(broken(raw))
    assert template(after) == template(before)
    assert find(after, "Deployment", NAME)["spec"]["replicas"] == 1
    assert after.models == {}


@pytest.mark.parametrize("annotation", [None, "", "{", "[]", '{"specHash": 1}', "null"])
def test_workers_stay_as_they_are_even_when_somebody_spoilt_the_annotation(
    annotation: str | None,
) -> None:
    raw, installation = raw_and_installation()
    live = installation.child("Deployment", NAME)
    if annotation is None:
        del live["metadata"]["annotations"]
    else:
        live["metadata"]["annotations"][labels.PINNED] = annotation
    live["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    spoilt = replace(installation.holding(live), config=NEWER)
    assert template(spoilt.rendered(broken(raw))) == live["spec"]["template"]


@pytest.mark.parametrize("annotation", ["", "{", '{"specHash": 1}'])
def test_a_spoilt_annotation_is_written_anew_and_restarts_nothing(annotation: str) -> None:
    raw, installation = raw_and_installation()
    live = installation.child("Deployment", NAME)
    live["metadata"]["annotations"][labels.PINNED] = annotation
    assert installation.holding(live).rendered(raw) == installation.rendered(raw)


def test_an_overlay_that_cannot_be_used_is_a_finding_and_restarts_nothing() -> None:
    raw, installation = raw_and_installation()
    after = installation.rendered(one_model(podTemplate={"spec": {"containers": {}}}))
    assert template(after) == template(installation.rendered(raw))
    assert [(one.reason, one.model) for one in after.findings] == [("SpecInvalid", "bert-base")]
    assert "podTemplate of model 'bert-base'" in after.findings[0].message
    assert after.models == {}
