"""Requests to the API server as they go over the wire, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from deepseek_operator import kube, labels
from deepseek_operator.cluster import (
    ClusterError,
    Conflict,
    NotFound,
    Rejected,
    ServerFault,
    Throttled,
    Unauthorized,
    Unavailable,
)
from deepseek_operator.kube import KubeCluster, connect
from deepseek_operator.observed import CHILD_KINDS
from deepseek_operator.resources import RESOURCES, collection_path, object_path

UID = "11111111-1111-1111-1111-111111111111"
PIPELINE = {"metadata": {"name": "p", "namespace": "team", "uid": UID}}
MINE = [{"apiVersion": "deepseek.ai/v1alpha1", "kind": "ModelPipeline", "name": "p", "uid": UID,
         "controller": True}]  # fmt: skip


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    """Answers what it was told to, and empty lists otherwise."""

    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    hangs: bool = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.hangs:
            await asyncio.Event().wait()
        text = await request.text()
        seen = Request(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers=dict(request.headers),
            body=json.loads(text) if text else None,
        )
        self.requests.append(seen)
        answer = self.answers.get((request.method, request.path), {"items": []})
        if callable(answer):
            answer = answer(seen)
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.json_response(answer)

    def seen(self, method: str, path: str) -> list[Request]:
        return [item for item in self.requests if (item.method, item.path) == (method, path)]


def refusal(code: int, message: str, **headers: str) -> Callable[[Request], web.Response]:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code}
    return lambda _: web.json_response(body, status=code, headers=headers)


def against(
    server: Server,
    scenario: Callable[[KubeCluster], Awaitable[Any]],
    *,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    namespaces: tuple[str, ...] = (),
) -> Any:
    async def run() -> Any:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(application, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        config = folder / "kubeconfig"
        config.write_text(kubeconfig(f"http://127.0.0.1:{port}"))
        monkeypatch.setenv("KUBECONFIG", str(config))
        try:
            async with KubeCluster(await connect(), namespaces=namespaces) as cluster:
                return await scenario(cluster)
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def kubeconfig(url: str) -> str:
    return f"""
apiVersion: v1
kind: Config
current-context: c
clusters: [{{name: c, cluster: {{server: "{url}"}}}}]
users: [{{name: c, user: {{token: s3cret}}}}]
contexts: [{{name: c, context: {{cluster: c, user: c}}}}]
"""


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def run(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def call(scenario: Callable[[KubeCluster], Awaitable[Any]], **settings: Any) -> Any:
        return against(server, scenario, folder=tmp_path, monkeypatch=monkeypatch, **settings)

    return call


def item(name: str, *, owners: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "ownerReferences": owners or []},
            **fields}  # fmt: skip


BODY = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "p-m", "namespace": "team"},
    "spec": {"replicas": 2},
}


@pytest.mark.parametrize(
    ("uid", "precondition"),
    # Nothing has version 1: etcd counts it before the first write.
    [(None, {"resourceVersion": "1"}), ("u-1", {"uid": "u-1"})],
    ids=["new", "existing"],
)
def test_apply_is_a_forced_server_side_apply_to_this_object_or_to_none(
    run: Callable[..., Any], server: Server, uid: str | None, precondition: dict[str, str]
) -> None:
    path = "/apis/apps/v1/namespaces/team/deployments/p-m"
    server.answers["PATCH", path] = BODY
    run(lambda cluster: cluster.apply(BODY, manager="me", uid=uid))
    [request] = server.seen("PATCH", path)
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"
    assert request.query == {"fieldManager": "me", "force": "true"}
    assert request.headers["Authorization"] == "Bearer s3cret"
    metadata: Any = BODY["metadata"]
    assert request.body == {**BODY, "metadata": {**metadata, **precondition}}


def test_delete_names_the_uid_and_takes_an_absent_object_for_deleted(
    run: Callable[..., Any], server: Server
) -> None:
    path = "/api/v1/namespaces/team/services/p-m"
    server.answers["DELETE", path] = refusal(404, "not found")
    run(lambda cluster: cluster.delete("Service", "team", "p-m", uid="u-1"))
    [request] = server.seen("DELETE", path)
    assert request.body["preconditions"] == {"uid": "u-1"}


def test_status_is_a_merge_patch_of_the_subresource_bound_to_the_uid(
    run: Callable[..., Any], server: Server
) -> None:
    run(lambda cluster: cluster.patch_status(PIPELINE, {"replicas": "1/1", "old": None}))
    [request] = server.requests
    assert request.path == "/apis/deepseek.ai/v1alpha1/namespaces/team/modelpipelines/p/status"
    assert request.headers["Content-Type"] == "application/merge-patch+json"
    assert request.body == {
        "metadata": {"uid": UID},
        "status": {"replicas": "1/1", "old": None},
    }


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, Rejected),
        (403, Rejected),
        (404, NotFound),
        (409, Conflict),
        (422, Rejected),
        (429, Throttled),
        (401, Unauthorized),
        (500, ServerFault),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_refusals_become_the_operators_own_errors_with_the_servers_text(
    run: Callable[..., Any], server: Server, code: int, kind: type[ClusterError]
) -> None:
    server.answers["PATCH", object_path("Deployment", "team", "p-m")] = refusal(code, "no, because")
    with pytest.raises(ClusterError, match="no, because") as caught:
        run(lambda cluster: cluster.apply(BODY, manager="me", uid=None))
    assert type(caught.value) is kind


@pytest.mark.parametrize(("header", "expected"), [("7", 7.0), ("soon", 1.0), ("9999", 60.0)])
def test_the_wait_that_the_server_asks_for_is_kept_within_reason(
    run: Callable[..., Any], server: Server, header: str, expected: float
) -> None:
    path = object_path("ModelPipeline", "team", "p")
    server.answers["GET", path] = refusal(429, "slow down", **{"Retry-After": header})
    with pytest.raises(Throttled) as caught:
        run(lambda cluster: cluster.get_pipeline("team", "p"))
    assert caught.value.retry_after_s == expected


def test_an_answer_that_is_no_json_is_reported_as_text(
    run: Callable[..., Any], server: Server
) -> None:
    path = object_path("ModelPipeline", "team", "p")
    server.answers["GET", path] = lambda _: web.Response(status=502, text="bad gateway")
    with pytest.raises(Unavailable, match="502: bad gateway"):
        run(lambda cluster: cluster.get_pipeline("team", "p"))


def test_a_server_that_does_not_answer_in_time_is_unavailable(
    run: Callable[..., Any], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "REQUEST_TIMEOUT_S", 0.05)

    server.hangs = True
    with pytest.raises(Unavailable, match=r"GET .*/modelpipelines/p"):
        run(lambda cluster: cluster.get_pipeline("team", "p"))


def test_a_missing_pipeline_is_none(run: Callable[..., Any], server: Server) -> None:
    server.answers["GET", object_path("ModelPipeline", "team", "p")] = refusal(404, "gone")
    assert run(lambda cluster: cluster.get_pipeline("team", "p")) is None


def test_lists_are_read_page_by_page(run: Callable[..., Any], server: Server) -> None:
    def page(request: Request) -> dict[str, Any]:
        number = int(request.query.get("continue", "0"))
        entry = {"metadata": {"name": f"p{number}", "namespace": "team"}}
        return {"items": [entry], "metadata": {"continue": str(number + 1) if number < 2 else ""}}

    server.answers["GET", collection_path("ModelPipeline", None)] = page
    keys = run(lambda cluster: cluster.list_pipelines())
    assert keys == [("team", "p0"), ("team", "p1"), ("team", "p2")]


def test_a_namespaced_installation_asks_for_its_namespaces_only(
    run: Callable[..., Any], server: Server
) -> None:
    run(lambda cluster: cluster.list_pipelines(), namespaces=("one", "two"))
    assert [request.path for request in server.requests] == [
        collection_path("ModelPipeline", "one"),
        collection_path("ModelPipeline", "two"),
    ]


def test_children_are_told_from_strangers_by_the_uid_of_their_controller(
    run: Callable[..., Any], server: Server
) -> None:
    other = [{**MINE[0], "uid": "another"}]
    server.answers["GET", collection_path("Deployment", "team")] = {
        "items": [item("p-a", owners=MINE), item("p-old", owners=other)]
    }
    server.answers["GET", object_path("Deployment", "team", "p-b")] = {
        "kind": "Deployment", **item("p-b")
    }  # fmt: skip
    server.answers["GET", object_path("Deployment", "team", "p-c")] = {
        "kind": "Deployment", **item("p-c", owners=MINE)
    }  # fmt: skip
    server.answers["GET", object_path("Deployment", "team", "p-d")] = refusal(404, "not found")
    needed = [("Deployment", f"p-{name}") for name in "abcd"]
    snapshot = run(lambda cluster: cluster.observe(PIPELINE, needed=needed))
    assert set(snapshot.observed.children) == {("Deployment", "p-a"), ("Deployment", "p-c")}
    assert set(snapshot.observed.strangers) == {("Deployment", "p-b")}
    assert snapshot.observed.children["Deployment", "p-a"]["apiVersion"] == "apps/v1"


def test_children_are_listed_by_label_and_autoscalers_without(
    run: Callable[..., Any], server: Server
) -> None:
    run(lambda cluster: cluster.observe(PIPELINE, needed=()))
    selectors = {request.path: request.query.get("labelSelector") for request in server.requests}
    for kind in (*CHILD_KINDS, "Pod"):
        expected = None if kind == "HorizontalPodAutoscaler" else f"{labels.PIPELINE}=p"
        assert selectors[collection_path(kind, "team")] == expected


def test_a_kind_that_must_not_be_listed_hides_no_other(
    run: Callable[..., Any], server: Server
) -> None:
    server.answers["GET", collection_path("Service", "team")] = refusal(403, "services forbidden")
    server.answers["GET", collection_path("Deployment", "team")] = {
        "items": [item("p-a", owners=MINE)]
    }
    snapshot = run(lambda cluster: cluster.observe(PIPELINE, needed=[("Service", "p-a")]))
    assert snapshot.refused == {"Service": "services forbidden"}
    assert set(snapshot.observed.children) == {("Deployment", "p-a")}
    assert server.seen("GET", object_path("Service", "team", "p-a")) == []


def pod(name: str, *, ready: bool) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return item(name, status={"conditions": conditions})


@pytest.mark.parametrize("ready", [True, False])
def test_warnings_are_read_only_while_a_pod_is_not_ready(
    run: Callable[..., Any], server: Server, ready: bool
) -> None:
    server.answers["GET", collection_path("Deployment", "team")] = {
        "items": [item("p-a", owners=MINE)]
    }
    server.answers["GET", collection_path("Pod", "team")] = {"items": [pod("p-a-1", ready=ready)]}
    server.answers["GET", collection_path("CoreEvent", "team")] = {
        "items": [{"involvedObject": {"kind": "Pod", "name": name}} for name in ("p-a-1", "else")]
    }
    snapshot = run(lambda cluster: cluster.observe(PIPELINE, needed=()))
    found = [event["involvedObject"]["name"] for event in snapshot.observed.events]
    assert found == ([] if ready else ["p-a-1"])


def test_a_warning_is_found_behind_any_number_of_others(
    run: Callable[..., Any], server: Server
) -> None:
    def page(request: Request) -> dict[str, Any]:
        assert request.query["fieldSelector"] == "type=Warning,involvedObject.kind=Pod"
        number = int(request.query.get("continue", "0"))
        name = "p-a-1" if number == 3 else "else"
        about = {"kind": "Pod", "name": name}
        return {
            "items": [{"involvedObject": about}],
            "metadata": {"continue": str(number + 1) if number < 3 else ""},
        }

    server.answers["GET", collection_path("Pod", "team")] = {"items": [pod("p-a-1", ready=False)]}
    server.answers["GET", collection_path("CoreEvent", "team")] = page
    snapshot = run(lambda cluster: cluster.observe(PIPELINE, needed=()))
    assert [event["involvedObject"]["name"] for event in snapshot.observed.events] == ["p-a-1"]


def node(name: str, gpus: int) -> dict[str, Any]:
    ready = [{"type": "Ready", "status": "True"}]
    return item(name, status={"allocatable": {"nvidia.com/gpu": str(gpus)}, "conditions": ready})


def test_devices_are_counted_from_nodes_and_the_pods_on_them_that_have_not_ended(
    run: Callable[..., Any], server: Server
) -> None:
    server.answers["GET", collection_path("Node", None)] = {"items": [node("a", 4)]}
    used = {"containers": [{"resources": {"requests": {"nvidia.com/gpu": "3"}}}], "nodeName": "a"}
    server.answers["GET", collection_path("Pod", None)] = {"items": [item("x", spec=used)]}
    spare = run(lambda cluster: cluster.spare_devices({"nvidia.com/gpu"}, max_age_s=0))
    assert spare == {"nvidia.com/gpu": 1}
    [request] = server.seen("GET", collection_path("Pod", None))
    assert request.query["fieldSelector"] == (
        "spec.nodeName=a,status.phase!=Succeeded,status.phase!=Failed"
    )


@pytest.mark.parametrize("why", ["forbidden", "namespaced"])
def test_there_are_no_spare_devices_where_nodes_may_not_be_seen(
    run: Callable[..., Any], server: Server, why: str
) -> None:
    if why == "forbidden":
        server.answers["GET", collection_path("Node", None)] = refusal(403, "no nodes for you")
    spare = run(
        lambda cluster: cluster.spare_devices({"nvidia.com/gpu"}, max_age_s=0),
        namespaces=("team",) if why == "namespaced" else (),
    )
    assert spare == {}


@pytest.mark.parametrize("present", [True, False])
def test_whether_pipelines_are_served_is_read_from_discovery(
    run: Callable[..., Any], server: Server, present: bool
) -> None:
    path = RESOURCES["ModelPipeline"].api
    server.answers["GET", path] = (
        {"resources": [{"name": "modelpipelines"}]} if present else refusal(404, "page not found")
    )
    assert run(lambda cluster: cluster.serves_pipelines()) is present


def test_without_any_cluster_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(Unavailable, match="No cluster can be reached"):
        asyncio.run(connect())
