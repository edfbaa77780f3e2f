"""The operator may do what its code does, and nothing else."""

from __future__ import annotations

import inspect
import json
import re
from collections import defaultdict
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from deepseek_operator.cluster import Cluster
from deepseek_operator.kube import Connection, KubeCluster
from deepseek_operator.observed import CHILD_KINDS
from deepseek_operator.resources import RESOURCES, WATCHED_KINDS
from kubernetes.aio.client import Configuration

from tests.unit.chart.rendering import chart_file, pairs

Verbs = dict[tuple[str, str], set[str]]

PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[^/]+))/v\w+(?:/namespaces/[^/]+)?/(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<sub>\w+))?)?$"
)
PIPELINE: dict[str, Any] = {
    "apiVersion": "deepseek.ai/v1alpha1",
    "kind": "ModelPipeline",
    "metadata": {"namespace": "team", "name": "joint", "uid": "u1"},
}


class Recorder:
    """An API server that notes which permission every request needs."""

    def __init__(self) -> None:
        self.needed: Verbs = defaultdict(set)

    async def answer(self, request: web.Request) -> web.Response:
        """Note the request; lists hold a pod that is not ready, so that its reason is asked for."""
        match = PATH.match(request.path)
        if match is None:  # discovery, which every account may do
            return web.json_response({"resources": []})
        resource = match["resource"] + (f"/{match['sub']}" if match["sub"] else "")
        verbs = {
            "GET": {"get"} if match["name"] else {"list"},
            "POST": {"create"},
            "DELETE": {"delete"},
            "PATCH": {"patch"},
        }[request.method]
        if "apply-patch" in request.content_type:
            verbs |= {"create"}
        self.needed[match["group"] or "", resource] |= verbs
        body: dict[str, Any] = {"metadata": {}}
        if "list" in verbs:
            body["items"] = [{"metadata": {"name": "p"}}] if resource == "pods" else []
        return web.json_response(body)


async def call_everything(cluster: KubeCluster) -> set[str]:
    """Call every method of the interface; return their names."""
    child = {"metadata": {"namespace": "team", "name": "joint-bert"}}
    await cluster.get_pipeline("team", "joint")
    await cluster.list_pipelines()
    await cluster.observe(PIPELINE, needed=())
    await cluster.spare_devices({"example.com/gpu"}, max_age_s=0)
    await cluster.find("team", [(kind, "joint-bert") for kind in CHILD_KINDS])
    for kind in CHILD_KINDS:
        await cluster.apply({**child, "kind": kind}, manager="test", uid=None)
        await cluster.delete(kind, "team", "joint-bert", uid="u2")
    await cluster.patch_status(PIPELINE, {})
    await cluster.create_event(child)
    return {
        "get_pipeline",
        "list_pipelines",
        "observe",
        "spare_devices",
        "find",
        "apply",
        "delete",
        "patch_status",
        "create_event",
    }


async def needed_by(*namespaces: str) -> Verbs:
    """Permissions that the operator's requests need when it watches these namespaces."""
    recorder = Recorder()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", recorder.answer)
    async with TestServer(app) as server:
        connection = Connection(Configuration(host=str(server.make_url("")).rstrip("/")))
        async with KubeCluster(connection, namespaces=namespaces) as cluster:
            called = await call_everything(cluster)
    assert called == {name for name, _ in inspect.getmembers(Cluster, inspect.isfunction)} - {
        "__init__",
        "__subclasshook__",
    }
    for kind in WATCHED_KINDS:
        recorder.needed[RESOURCES[kind].group, RESOURCES[kind].plural] |= {"list", "watch"}
    # Not a request: owner references that block deletion are checked against it.
    recorder.needed["deepseek.ai", "modelpipelines/finalizers"] = {"update"}
    return dict(recorder.needed)


async def test_a_namespace_grants_exactly_what_is_asked_for_in_it() -> None:
    assert dict(pairs(chart_file("files/rules.yaml"))) == await needed_by("team")


async def test_nodes_are_listed_only_cluster_wide() -> None:
    namespaced, cluster_wide = await needed_by("team"), await needed_by()
    assert cluster_wide == namespaced | {("", "nodes"): {"list"}}


@pytest.mark.parametrize("forbidden", ["*", "secrets", "pods/exec", "escalate", "bind"])
def test_no_rule_is_wider_than_its_words(forbidden: str) -> None:
    assert f'"{forbidden}"' not in json.dumps(chart_file("files/rules.yaml"))
