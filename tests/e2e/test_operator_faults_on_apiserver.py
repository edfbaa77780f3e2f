"""The operator with few permissions, without its kind, and through outages of the API server."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_operator.observed import CHILD_KINDS
from deepseek_operator.resources import RESOURCES, WATCHED_KINDS

from tests.support.apiserver import ApiServer, binaries
from tests.support.faulty_api import FaultyApi
from tests.support.operator_process import OperatorProcess
from tests.support.pipelines_on_api import (
    Namespace,
    install_crd,
    make_namespace,
    operator_settings,
    pipeline,
    settled,
)
from tests.support.worker import until

PROGRAMS = binaries()
OUTAGE_S = 60.0
CHILDREN = (
    *("ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service"),
    "ServiceAccount",
)
"""Of a pipeline with one model and two replicas."""
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
    """One on which no operator runs but the test's own."""
    assert PROGRAMS is not None
    with ApiServer(PROGRAMS, tmp_path_factory.mktemp("quiet")) as server:
        install_crd(server)
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return operator_settings(tmp_path)


def role(*, without: str | None = None) -> dict[str, Any]:
    """All that the operator needs, but for writing one kind."""
    rules = [
        {
            "apiGroups": [RESOURCES[kind].group],
            "resources": [RESOURCES[kind].plural],
            "verbs": ["get", "list", "watch"]
            + (["create", "patch", "delete"] if kind in CHILD_KINDS and kind != without else []),
        }
        for kind in (*WATCHED_KINDS, "Event", "CoreEvent")
    ]
    group = RESOURCES["ModelPipeline"].group
    rules += [
        {"apiGroups": [group], "resources": ["modelpipelines/status"], "verbs": ["patch"]},
        {"apiGroups": [group], "resources": ["modelpipelines/finalizers"], "verbs": ["update"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "limited"},
        "rules": rules,
    }


def grant(namespace: Namespace, user: str, rules: dict[str, Any]) -> None:
    base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace.name}"
    namespace.api.apply(f"{base}/roles/limited", rules)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "limited"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "limited"},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
    }
    namespace.api.apply(f"{base}/rolebindings/limited", binding)


def test_a_kind_that_must_not_be_written_stops_no_other_and_is_named(
    api: ApiServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    namespace = make_namespace(api)
    user = api.user(f"limited-{namespace.name}")
    grant(namespace, f"limited-{namespace.name}", role(without="Service"))
    namespaced = {**settings, "namespaces": [namespace.name]}
    with OperatorProcess(user, tmp_path, namespaced) as process:
        process.wait_healthy()
        namespace.put(pipeline())
        until(
            lambda: namespace.condition("p", "ChildRejected").get("status") == "True",
            what="ChildRejected",
        )
        assert "forbidden" in namespace.condition("p", "ChildRejected")["message"]
        assert {kind for kind, _ in namespace.children("p")} >= {"Deployment", "ConfigMap"}
        assert namespace.get("Service", "p-m") is None
        grant(namespace, f"limited-{namespace.name}", role())
        namespace.wait("Service", "p-m", timeout_s=60)


def test_an_operator_that_may_not_watch_a_kind_is_not_healthy(
    api: ApiServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    namespace = make_namespace(api)
    name = f"blind-{namespace.name}"
    user = api.user(name)
    rules = role()
    rules["rules"] = [rule for rule in rules["rules"] if rule["resources"] != ["pods"]]
    grant(namespace, name, rules)
    with OperatorProcess(user, tmp_path, {**settings, "namespaces": [namespace.name]}) as process:
        until(lambda: process.health() == 500, timeout_s=60, what="a failing probe")
        until(lambda: "pods" in process.text, what="the reason in the log")


def is_told(namespace: Namespace, name: str) -> bool:
    """Whether status speaks of the newest generation, and of nothing that was refused."""
    found = namespace.get("ModelPipeline", name) or {}
    told = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
    return told and namespace.condition(name, "ChildRejected").get("status") != "True"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("code", [409, 429, 500, 503])
def test_faults_of_the_api_server_delay_a_pipeline_and_lose_nothing(
    code: int, api: ApiServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    namespace = make_namespace(api)

    # By chance, so that no rhythm of the requests decides which one meets a fault.
    chance = random.Random(code)

    def a_fifth_of_the_writes(method: str, path: str, number: int) -> int | None:
        return code if method in {"PATCH", "POST"} and chance.random() < 1 / 5 else None

    with (
        FaultyApi(api, tmp_path, a_fifth_of_the_writes) as faulty,
        OperatorProcess(
            faulty.kubeconfig, tmp_path, {**settings, "namespaces": [namespace.name]}
        ) as process,
    ):
        process.wait_healthy()
        names = [f"p{number}" for number in range(4)]
        for name in names:
            namespace.put(pipeline(name))
        until(
            lambda: all(namespace.get("Deployment", f"{name}-m") for name in names),
            timeout_s=120,
            what="the Deployments",
        )
        until(lambda: all(is_told(namespace, name) for name in names), timeout_s=120, what="status")
        # A conflict is tried again and not told, so the last child may come after the status.
        until(
            lambda: {len(namespace.children(name)) for name in names} == {len(CHILDREN)},
            timeout_s=120,
            what=f"the {len(CHILDREN)} children of each",
        )
        assert faulty.given[code] >= 4
        assert process.health() == 200
        # What a fault delayed is repaired like anything else.
        namespace.api.delete(namespace.path("Service", "p0-m"))
        namespace.wait("Service", "p0-m", timeout_s=120)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_lists_and_watches_that_fail_at_first_are_opened_again(
    code: int, api: ApiServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    namespace = make_namespace(api)

    def the_first_reads(method: str, path: str, number: int) -> int | None:
        return code if method == "GET" and f"/{namespace.name}/" in path and number < 40 else None

    with (
        FaultyApi(api, tmp_path, the_first_reads) as faulty,
        OperatorProcess(
            faulty.kubeconfig, tmp_path, {**settings, "namespaces": [namespace.name]}
        ) as process,
    ):
        namespace.put(pipeline())
        namespace.wait("Deployment", "p-m", timeout_s=60)
        process.wait_healthy()
        assert faulty.given[code] >= 4


def test_without_the_kind_the_operator_ends_with_a_sentence(tmp_path: Path) -> None:
    assert PROGRAMS is not None
    folder = tmp_path / "api"
    folder.mkdir()
    with (
        ApiServer(PROGRAMS, folder) as bare,
        OperatorProcess(bare.kubeconfig, tmp_path) as process,
    ):
        assert process.wait() == 1
        [record] = process.logs
    assert record["level"] == "ERROR"
    assert record["message"].startswith("The cluster does not know the kind ModelPipeline.")


def test_without_an_api_server_the_operator_ends_with_a_sentence(
    api: ApiServer, tmp_path: Path
) -> None:
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    with OperatorProcess(path, tmp_path) as process:
        # It tries for a minute first.
        assert process.wait(timeout_s=100) == 1
        assert process.logs[-1]["message"].startswith("The operator cannot start:")


def test_a_signal_ends_the_operator_quickly_and_without_an_error(
    api: ApiServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    with OperatorProcess(api.kubeconfig, tmp_path, settings) as process:
        process.wait_healthy()
        assert process.stop() == 0
        assert not [record for record in process.logs if record.get("level") == "ERROR"]


def test_an_outage_of_the_api_server_is_survived(settings: dict[str, Any], tmp_path: Path) -> None:
    assert PROGRAMS is not None
    for name in ("api", "operator"):
        (tmp_path / name).mkdir()
    with ApiServer(PROGRAMS, tmp_path / "api") as server:
        install_crd(server)
        here = Namespace(server, "default")
        with OperatorProcess(server.kubeconfig, tmp_path / "operator", settings) as process:
            process.wait_healthy()
            here.put(pipeline())
            settled(here, "p")
            uid = here.wait("Deployment", "p-m")["metadata"]["uid"]
            server.stop()
            over = time.monotonic() + OUTAGE_S
            until(lambda: "tried again" in process.text or "will retry" in process.text,
                  timeout_s=60, what="a failed request")  # fmt: skip
            until(lambda: time.monotonic() > over, timeout_s=OUTAGE_S + 10)
            assert process.running
            server.start()
            server.delete(here.path("Deployment", "p-m"))
            until(
                lambda: (now := here.get("Deployment", "p-m")) and now["metadata"]["uid"] != uid,
                timeout_s=40,
                what="the repair after the outage",
            )
            assert process.running
