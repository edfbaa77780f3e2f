"""``deepseek doctor --cluster``: every miss is named, with what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import invoke
from tests.support.loopback_api import LoopbackApi, Reply, Wire, failure

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/modelpipelines.deepseek.ai"
OPERATORS = "/apis/apps/v1/deployments"
METRICS = "/apis/metrics.k8s.io/v1beta1"
NODES = "/api/v1/nodes"
REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
FORBIDDEN = failure(403, "Forbidden", "users may not")


def version(minor: str) -> Reply:
    return 200, {"major": "1", "minor": minor, "gitVersion": f"v1.{minor}.3"}


def crd(*, served: bool = True, established: str = "True") -> Reply:
    conditions = [{"type": "Established", "status": established, "message": "names are taken"}]
    versions = [{"name": "v1alpha1", "served": served}]
    return 200, {"spec": {"versions": versions}, "status": {"conditions": conditions}}


def operators(*available: int) -> Reply:
    metadata = {"name": "deepseek-operator", "namespace": "system"}
    conditions = [{"type": "Available", "status": "False", "message": "No replica is ready."}]
    return 200, {
        "items": [
            {"metadata": metadata, "status": {"availableReplicas": n, "conditions": conditions}}
            for n in available
        ]
    }


def nodes(**allocatable: str) -> Reply:
    return 200, {"items": [{"status": {"allocatable": allocatable}}, {"status": {}}]}


def review(allowed: bool) -> Reply:
    return 201, {"status": {"allowed": allowed}}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackApi]:
    with LoopbackApi() as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path)))
        fake.routes.update(
            {
                ("GET", "/version"): version("36"),
                ("GET", CRD): crd(),
                ("GET", OPERATORS): operators(1),
                ("GET", METRICS): (200, {}),
                ("GET", NODES): nodes(**{"nvidia.com/gpu": "4"}),
                ("POST", REVIEW): review(True),
            }
        )
        yield fake


def found(name: str) -> tuple[int, Wire]:
    """Exit code and what was found about one thing."""
    ran = invoke("doctor", "--cluster", "-o", "json")
    checks = {check["what"]: check for check in json.loads(ran.out)["checks"]}
    return ran.code, checks[name]


def test_a_complete_cluster_is_fine(cluster: LoopbackApi) -> None:
    ran = invoke("doctor", "--cluster", columns=120)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"{cluster.url}, namespace demo"
    assert [line.split("  ")[0] for line in lines[3:]] == [
        "API server",
        "ModelPipeline CRD",
        "operator",
        "metrics API",
        "devices",
        "right to create",
        "right to get",
        "right to patch",
    ]
    assert all(" ok " in line for line in lines[3:])
    assert "4 nvidia.com/gpu (cuda) on 2 nodes" in ran.out


MISSES = {
    "old server": ("GET", "/version", version("32"), "API server", "problem", "Upgrade"),
    "gated": ("GET", "/version", version("33+"), "API server", "note", "feature gate ImageVolume"),
    "secretive": ("GET", "/version", FORBIDDEN, "API server", "note", "users may not"),
    "no number": (
        "GET",
        "/version",
        (200, {"major": "x", "minor": ""}),
        "API server",
        "note",
        "no number",
    ),
    "no CRD": (
        "GET",
        CRD,
        failure(404, "NotFound", "no"),
        "ModelPipeline CRD",
        "problem",
        "helm install",
    ),
    "CRD of another version": (
        "GET",
        CRD,
        crd(served=False),
        "ModelPipeline CRD",
        "problem",
        "does not serve v1alpha1",
    ),
    "CRD not accepted": (
        "GET",
        CRD,
        crd(established="False"),
        "ModelPipeline CRD",
        "problem",
        "names are taken",
    ),
    "CRD hidden and not served": (
        "GET",
        CRD,
        FORBIDDEN,
        "ModelPipeline CRD",
        "problem",
        "not served",
    ),
    "no operator": ("GET", OPERATORS, operators(), "operator", "problem", "helm install"),
    "operator down": (
        "GET",
        OPERATORS,
        operators(0),
        "operator",
        "problem",
        "No replica is ready. See why: kubectl -n system describe deployment deepseek-operator",
    ),
    "operator hidden": ("GET", OPERATORS, FORBIDDEN, "operator", "note", "cannot be looked for"),
    "no metrics": (
        "GET",
        METRICS,
        failure(503, "ServiceUnavailable", "no"),
        "metrics API",
        "note",
        "metrics-server",
    ),
    "no devices": ("GET", NODES, nodes(cpu="8"), "devices", "note", "device plugin"),
    "no nodes": ("GET", NODES, (200, {"items": []}), "devices", "problem", "Add one"),
    "nodes hidden": ("GET", NODES, FORBIDDEN, "devices", "note", "users may not"),
    "no rights": (
        "POST",
        REVIEW,
        review(False),
        "right to patch",
        "problem",
        "Role with patch on modelpipelines.deepseek.ai",
    ),
    "rights hidden": ("POST", REVIEW, FORBIDDEN, "right to get", "note", "users may not"),
}


@pytest.mark.parametrize(
    ("method", "path", "reply", "what", "level", "words"), MISSES.values(), ids=MISSES
)
def test_a_miss_is_named_with_what_to_do(
    cluster: LoopbackApi,
    method: str,
    path: str,
    reply: Reply,
    what: str,
    level: str,
    words: str,
) -> None:
    cluster.routes[method, path] = reply
    code, check = found(what)
    assert (check["level"], code) == (level, 1 if level == "problem" else 0)
    assert words in check["detail"]


def test_an_ordinary_user_learns_what_the_server_lets_them_see(cluster: LoopbackApi) -> None:
    cluster.routes["GET", CRD] = cluster.routes["GET", OPERATORS] = FORBIDDEN
    resources = {"resources": [{"name": "modelpipelines"}]}
    cluster.routes["GET", "/apis/deepseek.ai/v1alpha1"] = (200, resources)
    cluster.routes["GET", "/apis/apps/v1/namespaces/demo/deployments"] = operators()
    assert found("ModelPipeline CRD")[1]["level"] == "ok"
    code, operator = found("operator")
    assert (code, operator["level"]) == (0, "note")
    assert "namespace demo" in operator["detail"]


def test_rights_are_asked_for_the_namespace(cluster: LoopbackApi) -> None:
    invoke("doctor", "--cluster", "-n", "other")
    asked = [one["body"]["spec"]["resourceAttributes"] for one in cluster.asked if one["body"]]
    assert [(one["verb"], one["namespace"]) for one in asked] == [
        ("create", "other"),
        ("get", "other"),
        ("patch", "other"),
    ]


def test_problems_are_summed_up_for_people(cluster: LoopbackApi) -> None:
    cluster.routes["GET", "/version"] = version("30")
    cluster.routes["GET", OPERATORS] = operators()
    ran = invoke("doctor", "--cluster")
    assert ran.code == 1
    assert ran.err.strip() == "Not ready to serve: API server, operator."


@pytest.mark.parametrize("option", ["--namespace", "--context"])
def test_options_of_a_cluster_need_the_cluster(option: str) -> None:
    ran = invoke("doctor", option, "x")
    assert ran.code == 2
    assert "belong to --cluster" in ran.err
