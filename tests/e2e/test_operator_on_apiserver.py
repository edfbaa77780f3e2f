"""The operator against a real API server: what it creates, repairs and survives.

There are no nodes: pods stay pending, so readiness is the business of other tests.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from deepseek_operator.observed import CHILD_KINDS
from deepseek_operator.resources import object_path

from tests.support.apiserver import ApiServer, binaries
from tests.support.operator_process import OperatorProcess
from tests.support.pipelines_on_api import (
    EXAMPLE,
    Namespace,
    autoscaled,
    install_crd,
    make_namespace,
    operator_settings,
    pipeline,
    settled,
)
from tests.support.worker import until

PROGRAMS = binaries()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        PROGRAMS is None,
        reason="no etcd, kube-apiserver and kube-controller-manager in DEEPSEEK_TEST_KUBE_BIN",
    ),
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    assert PROGRAMS is not None
    with ApiServer(PROGRAMS, tmp_path_factory.mktemp("api")) as server:
        install_crd(server)
        yield server


@pytest.fixture(scope="module")
def operator(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    folder = tmp_path_factory.mktemp("operator")
    with OperatorProcess(api.kubeconfig, folder, operator_settings(folder)) as process:
        yield process.wait_healthy()


@pytest.fixture
def namespace(api: ApiServer) -> Namespace:
    return make_namespace(api)


def owners_of(item: dict[str, Any], field: str) -> set[str]:
    return {
        entry["manager"]
        for entry in item["metadata"].get("managedFields", ())
        if field in entry.get("fieldsV1", {}).get("f:spec", {})
    }


def test_the_example_file_becomes_children_and_stays_as_the_user_wrote_it(
    operator: OperatorProcess, namespace: Namespace
) -> None:
    written = yaml.safe_load(EXAMPLE.read_text())
    namespace.put(written)
    children = settled(namespace, "nlp-vision-joint")
    replicas = {
        name: item["spec"]["replicas"]
        for (kind, name), item in children.items()
        if kind == "Deployment"
    }
    assert replicas == {"nlp-vision-joint-bert-base": 2, "nlp-vision-joint-resnet50": 1}
    assert {kind for kind, _ in children} == set(CHILD_KINDS) - {"HorizontalPodAutoscaler"}
    stored = namespace.get("ModelPipeline", "nlp-vision-joint")
    assert stored is not None
    assert stored["status"]["replicas"] == "0/3"
    assert "finalizers" not in stored["metadata"]
    assert "annotations" not in stored["metadata"]
    writers = {
        entry["manager"]
        for entry in stored["metadata"]["managedFields"]
        if entry.get("subresource") != "status"
    }
    assert writers == {"test"}


def test_every_child_is_owned_so_that_deleting_the_pipeline_deletes_it(
    operator: OperatorProcess, namespace: Namespace
) -> None:
    namespace.put(autoscaled())
    children = settled(namespace, "p")
    assert {kind for kind, _ in children} == set(CHILD_KINDS)
    namespace.api.delete(namespace.path("ModelPipeline", "p"))
    until(lambda: not namespace.children("p"), timeout_s=90, what="the end of all children")


@pytest.mark.parametrize("kind", CHILD_KINDS)
def test_a_deleted_child_comes_back(
    operator: OperatorProcess, namespace: Namespace, kind: str
) -> None:
    namespace.put(autoscaled())
    children = settled(namespace, "p")
    mine = {key: item for key, item in children.items() if key[0] == kind}
    assert mine
    for _, name in mine:
        namespace.api.delete(namespace.path(kind, name))

    def replaced() -> bool:
        now = [(namespace.get(kind, name), item) for (_, name), item in mine.items()]
        return all(new and new["metadata"]["uid"] != old["metadata"]["uid"] for new, old in now)

    until(replaced, what=f"a new {kind}")


MUTATIONS: dict[str, dict[str, Any]] = {
    "ServiceAccount": {"automountServiceAccountToken": True},
    "ConfigMap": {"data": {"worker.json": '{"foreign": true}'}},
    "NetworkPolicy": {"spec": {"podSelector": {"matchLabels": {"foreign": "yes"}}}},
    "Service": {"spec": {"selector": {"deepseek.ai/model": "another"}}},
    "Deployment": {"spec": {"template": {"spec": {"serviceAccountName": "default"}}}},
    "HorizontalPodAutoscaler": {"spec": {"maxReplicas": 40}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 2}},
}


def unchanged_part(item: dict[str, Any], mutation: dict[str, Any]) -> dict[str, Any]:
    """What the mutated fields hold."""
    return {
        name: unchanged_part(item[name], value) if isinstance(value, dict) else item.get(name)
        for name, value in mutation.items()
        if name in item
    }


@pytest.mark.parametrize("kind", CHILD_KINDS)
def test_a_changed_child_is_put_right(
    operator: OperatorProcess, namespace: Namespace, kind: str
) -> None:
    namespace.put(autoscaled())
    children = settled(namespace, "p")
    (_, name), before = next((key, item) for key, item in children.items() if key[0] == kind)
    wanted = unchanged_part(before, MUTATIONS[kind])
    changed = namespace.api.merge(namespace.path(kind, name), MUTATIONS[kind])
    assert unchanged_part(changed, MUTATIONS[kind]) != wanted
    until(
        lambda: unchanged_part(namespace.get(kind, name) or {}, MUTATIONS[kind]) == wanted,
        what=f"the repair of {kind} {name}",
    )


@pytest.mark.parametrize("label", ["app.kubernetes.io/managed-by", "deepseek.ai/pipeline"])
def test_a_child_that_lost_its_label_gets_it_back(
    operator: OperatorProcess, namespace: Namespace, label: str
) -> None:
    namespace.put(pipeline())
    settled(namespace, "p")
    before = namespace.wait("Deployment", "p-m")
    namespace.api.merge(
        namespace.path("Deployment", "p-m"), {"metadata": {"labels": {label: None}}}
    )

    def repaired() -> bool:
        now = namespace.wait("Deployment", "p-m")
        return label in now["metadata"]["labels"] and (
            now["metadata"]["uid"] == before["metadata"]["uid"]
        )

    until(repaired, what="the label")


def test_under_an_autoscaler_nobody_of_ours_owns_replicas_after_its_first_write(
    operator: OperatorProcess, namespace: Namespace
) -> None:
    namespace.put(autoscaled())
    settled(namespace, "p")
    path = namespace.path("Deployment", "p-m")
    # As an autoscaler writes: through the scale subresource.
    namespace.api.merge(f"{path}/scale", {"spec": {"replicas": 4}})
    for number in range(5):
        namespace.api.merge(
            namespace.path("ModelPipeline", "p"),
            {"metadata": {"labels": {"touched": str(number)}}},
        )
        settled(namespace, "p")
    live = namespace.wait("Deployment", "p-m")
    assert live["spec"]["replicas"] == 4
    assert not {name for name in owners_of(live, "f:replicas") if "deepseek" in name}


def test_handing_replicas_over_to_an_autoscaler_never_lowers_them(
    operator: OperatorProcess, namespace: Namespace
) -> None:
    fixed = pipeline()
    fixed["spec"]["models"][0]["replicas"] = 3
    namespace.put(fixed)
    until(lambda: namespace.wait("Deployment", "p-m")["spec"]["replicas"] == 3, what="3 replicas")
    path = namespace.path("Deployment", "p-m")
    before = namespace.wait("Deployment", "p-m")["metadata"]["resourceVersion"]
    wanted = copy.deepcopy(fixed)
    wanted["spec"]["models"][0]["autoscaling"] = {"minReplicas": 1, "maxReplicas": 5}
    namespace.put(wanted)
    namespace.wait("HorizontalPodAutoscaler", "p-m")
    settled(namespace, "p")
    live = namespace.wait("Deployment", "p-m")
    assert live["spec"]["replicas"] == 3
    assert "deepseek-operator" not in owners_of(live, "f:replicas")
    assert "deepseek-operator-handover" in owners_of(live, "f:replicas")
    changes = namespace.api.request(
        "GET", f"{object_path('Deployment', namespace.name)}?resourceVersion={before}"
    )
    assert changes["items"][0]["metadata"]["generation"] == live["metadata"]["generation"], path


def test_an_object_of_somebody_else_is_left_alone_and_named(
    operator: OperatorProcess, namespace: Namespace
) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "p-m"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}},
    }
    namespace.api.request("POST", object_path("Service", namespace.name), foreign)
    namespace.put(pipeline())
    until(
        lambda: namespace.condition("p", "NameConflict").get("status") == "True",
        what="NameConflict",
    )
    live = namespace.wait("Service", "p-m")
    assert live["spec"]["selector"] == {"app": "theirs"}
    assert "ownerReferences" not in live["metadata"]
    assert namespace.get("Deployment", "p-m") is not None


def test_a_pipeline_edited_a_hundred_times_is_looked_at_a_few_times_and_ends_right(
    operator: OperatorProcess, namespace: Namespace
) -> None:
    namespace.put(pipeline())
    settled(namespace, "p")
    name = "deepseek_operator_reconcile_total"
    before = operator.metric(name)
    for number in range(100):
        models = pipeline()["spec"]["models"]
        models[0]["replicas"] = 1 + number % 7
        namespace.api.merge(namespace.path("ModelPipeline", "p"), {"spec": {"models": models}})
    until(
        lambda: namespace.wait("Deployment", "p-m")["spec"]["replicas"] == 1 + 99 % 7,
        what="the last edit",
    )
    assert operator.metric(name) - before < 60


def test_sixty_four_models_become_sixty_four_deployments(
    operator: OperatorProcess, namespace: Namespace
) -> None:
    one = pipeline()["spec"]["models"][0]
    models = [{**one, "name": f"model-{number}", "replicas": 0} for number in range(64)]
    namespace.put(pipeline("wide", models=models))

    def made() -> int:
        return sum(kind == "Deployment" for kind, _ in namespace.children("wide"))

    until(lambda: made() == 64, timeout_s=60, what="64 Deployments")


def test_names_at_their_limits_become_names_that_fit(
    operator: OperatorProcess, namespace: Namespace
) -> None:
    one = pipeline()["spec"]["models"][0]
    models = [{**one, "name": "m" * 39 + end} for end in ("a", "b")]
    namespace.put(pipeline("p" * 63, models=models))
    children = settled(namespace, "p" * 63)
    names = {kind: [name for found, name in children if found == kind] for kind, _ in children}
    assert {kind: len(found) for kind, found in names.items()} == {
        "Deployment": 2,
        "Service": 4,
        "ConfigMap": 2,
        "PodDisruptionBudget": 2,
        "ServiceAccount": 1,
        "NetworkPolicy": 1,
    }
    assert max(len(name) for _, name in children) <= 63
    assert len(set(names["Service"])) == 4
