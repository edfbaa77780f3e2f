from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from deepseek_api.errors import ConfigurationError
from deepseek_operator.merge import overlay
from hypothesis import given
from hypothesis import strategies as st

WORKER: dict[str, Any] = {
    "name": "worker",
    "image": "worker:1",
    "args": ["a", "b"],
    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    "ports": [{"name": "grpc", "containerPort": 8001, "protocol": "TCP"}],
    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
}
BASE: dict[str, Any] = {
    "spec": {
        "containers": [WORKER],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "tolerations": [{"key": "a"}],
        "securityContext": {"runAsUser": 1, "runAsGroup": 1},
    }
}


def worker(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **fields}]}}


CASES: dict[str, tuple[dict[str, Any], list[Any], Any]] = {
    "a new field is added": ({"spec": {"priority": 1}}, ["spec", "priority"], 1),
    "objects merge field by field": (
        {"spec": {"securityContext": {"runAsUser": 2}}},
        ["spec", "securityContext"],
        {"runAsUser": 2, "runAsGroup": 1},
    ),
    "null removes a field": (
        {"spec": {"securityContext": {"runAsUser": None}}},
        ["spec", "securityContext"],
        {"runAsGroup": 1},
    ),
    "$patch: replace replaces an object": (
        {"spec": {"securityContext": {"$patch": "replace", "fsGroup": 3}}},
        ["spec", "securityContext"],
        {"fsGroup": 3},
    ),
    "containers merge by name": (
        worker(image="worker:2"),
        ["spec", "containers"],
        [{**WORKER, "image": "worker:2"}],
    ),
    "a container of a new name is added": (
        {"spec": {"containers": [{"name": "sidecar"}]}},
        ["spec", "containers"],
        [WORKER, {"name": "sidecar"}],
    ),
    "$patch: delete removes an item": (
        worker(env=[{"name": "A", "$patch": "delete"}]),
        ["spec", "containers", 0, "env"],
        [{"name": "B", "value": "2"}],
    ),
    "environment variables merge by name and keep their order": (
        worker(env=[{"name": "A", "value": "9"}, {"name": "C", "value": "3"}]),
        ["spec", "containers", 0, "env"],
        [{"name": "A", "value": "9"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
    ),
    "a variable from a field takes the place of a value": (
        worker(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]),
        ["spec", "containers", 0, "env", 0],
        {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ),
    "mounts merge by path": (
        worker(volumeMounts=[{"name": "other", "mountPath": "/tmp"}]),
        ["spec", "containers", 0, "volumeMounts"],
        [{"name": "other", "mountPath": "/tmp"}],
    ),
    "ports merge by number, and TCP is the default": (
        worker(ports=[{"containerPort": 8001, "hostPort": 1}]),
        ["spec", "containers", 0, "ports"],
        [{"name": "grpc", "containerPort": 8001, "protocol": "TCP", "hostPort": 1}],
    ),
    "a port of another protocol is another port": (
        worker(ports=[{"containerPort": 8001, "protocol": "UDP"}]),
        ["spec", "containers", 0, "ports", 1],
        {"containerPort": 8001, "protocol": "UDP"},
    ),
    "a volume keeps its kind when its fields change": (
        {"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]}},
        ["spec", "volumes"],
        [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
    ),
    "a volume of another kind takes the place": (
        {"spec": {"volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}]}},
        ["spec", "volumes"],
        [{"name": "tmp", "hostPath": {"path": "/x"}}],
    ),
    "tolerations are replaced": (
        {"spec": {"tolerations": [{"key": "b"}]}},
        ["spec", "tolerations"],
        [{"key": "b"}],
    ),
    "arguments are replaced": (worker(args=["c"]), ["spec", "containers", 0, "args"], ["c"]),
    "nothing changes nothing": ({}, [], BASE),
}


@pytest.mark.parametrize("case", CASES)
def test_the_overlay_means_what_a_patch_means(case: str) -> None:
    patch, path, expected = CASES[case]
    merged: Any = overlay(BASE, patch)
    for part in path:
        merged = merged[part]
    assert merged == expected


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an object for a list": ({"spec": {"containers": {}}}, "podTemplate.spec.containers is not"),
    "an item without its key": ({"spec": {"volumes": [{}]}}, "podTemplate.spec.volumes[0] has no"),
    "a text as an item": ({"spec": {"containers": ["worker"]}}, "podTemplate.spec.containers[0]"),
    "a list as a key": (worker(env=[{"name": []}]), "podTemplate.spec.containers[worker].env[0]"),
    "a text for an object": ({"spec": "x"}, "podTemplate.spec is not an object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_merged_is_refused_with_its_place(case: str) -> None:
    patch, message = REFUSED[case]
    with pytest.raises(ConfigurationError) as caught:
        overlay(BASE, patch)
    assert message in caught.value.message


FIELDS = ["spec", "containers", "env", "volumes", "name", "value", "ports", "$patch", "x"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(patch=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4))
def test_no_overlay_breaks_the_merge_or_changes_what_it_is_laid_over(
    patch: dict[str, Any],
) -> None:
    before = copy.deepcopy((BASE, patch))
    with contextlib.suppress(ConfigurationError):
        overlay(BASE, patch)
    assert (BASE, patch) == before
