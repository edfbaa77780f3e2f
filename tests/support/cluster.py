"""A real cluster in tests: requests, `kubectl`, and waiting with a deadline.

`Kube` speaks to the API server over kept connections, fast enough for sampling every 100 ms.
`Space` is one namespace of it with the questions that tests ask about pipelines. Only the cluster
that `python -m deploy.cluster up` started is touched, unless ``DEEPSEEK_E2E_ANY_CLUSTER=1``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import urllib3
import yaml

from deploy.cluster.layout import Layout
from tests.support.cluster_connection import Wire, connection_pool
from tests.support.cluster_programs import program

__all__ = [
    "ROOT",
    "ApiRefused",
    "Kube",
    "Space",
    "Wire",
    "deepseek",
    "eventually",
    "program",
    "run_tool",
    "the_cluster",
]

ROOT: Final = Path(__file__).resolve().parents[2]
_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
_PARTIAL: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PAUSE: Final = threading.Event()
_CORE: Final = "/api/v1"
_PREFIXES: Final[Mapping[str, tuple[str, str]]] = {
    "Namespace": (_CORE, "namespaces"),
    "Node": (_CORE, "nodes"),
    "Pod": (_CORE, "pods"),
    "Service": (_CORE, "services"),
    "ConfigMap": (_CORE, "configmaps"),
    "Secret": (_CORE, "secrets"),
    "ServiceAccount": (_CORE, "serviceaccounts"),
    "PersistentVolume": (_CORE, "persistentvolumes"),
    "PersistentVolumeClaim": (_CORE, "persistentvolumeclaims"),
    "ResourceQuota": (_CORE, "resourcequotas"),
    "Event": (_CORE, "events"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "ReplicaSet": ("/apis/apps/v1", "replicasets"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "APIService": ("/apis/apiregistration.k8s.io/v1", "apiservices"),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "ModelPipeline": ("/apis/deepseek.ai/v1alpha1", "modelpipelines"),
    "PodMetrics": ("/apis/metrics.k8s.io/v1beta1", "pods"),
}
_CLUSTER_WIDE: Final = {
    "Namespace",
    "Node",
    "CustomResourceDefinition",
    "APIService",
    "PersistentVolume",
}


class ApiRefused(Exception):
    """An answer of the API server that is no success."""

    def __init__(self, status: int, body: Wire) -> None:
        super().__init__(f"{status}: {body.get('message', '')}")
        self.status = status
        self.body = body

    @property
    def causes(self) -> list[Wire]:
        """The server's list of field errors."""
        return list((self.body.get("details") or {}).get("causes") or ())


def eventually(
    condition: Callable[[], Any],
    *,
    timeout_s: float = 60.0,
    what: str | Callable[[], str] = "the condition",
    every_s: float = 0.1,
) -> Any:
    """Poll until the condition gives something true, and return that.

    An unreachable or refusing API server counts as "not yet".

    Raises:
        AssertionError: it did not within the time; ``what`` says what, or is asked then.
    """
    limit = time.monotonic() + timeout_s
    last: Exception | None = None
    while True:
        try:
            value = condition()
        except (ApiRefused, urllib3.exceptions.HTTPError, OSError) as error:
            value, last = None, error
        if value:
            return value
        if time.monotonic() > limit:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"after {timeout_s:g} s: {text}" + (f" ({last})" if last else ""))
        _PAUSE.wait(every_s)


def the_cluster() -> Path | str:
    """The kubeconfig of the cluster for tests, or a sentence that says why there is none."""
    own = Layout.default().kubeconfig
    given = os.environ.get("KUBECONFIG") or (str(own) if own.is_file() else "")
    if not given:
        return "No cluster runs: make cluster"
    path = Path(given)
    if not path.is_file():
        return f"KUBECONFIG names {path}, which does not exist."
    if os.environ.get("DEEPSEEK_E2E_ANY_CLUSTER") != "1" and not _is_own(path, own):
        return (
            f"{path} is not the cluster that 'make cluster' started; "
            "DEEPSEEK_E2E_ANY_CLUSTER=1 lets the tests use it all the same."
        )
    return path


def _is_own(path: Path, own: Path) -> bool:
    config = yaml.safe_load(path.read_text())
    if str(config.get("current-context", "")) == "kind-deepseek":
        return True
    if not own.is_file():
        return False
    servers = [
        [entry["cluster"]["server"] for entry in one["clusters"]]
        for one in (config, yaml.safe_load(own.read_text()))
    ]
    return bool(servers[0] == servers[1])


def run_tool(
    *command: str, stdin: str | None = None, timeout_s: float = 300, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of the repository from its root.

    Raises:
        AssertionError: it failed, with everything that it said.
    """
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"} | env,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Kube:
    """Requests to one API server as its administrator; may be used by several threads."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        config = yaml.safe_load(kubeconfig.read_text())
        context = next(c for c in config["contexts"] if c["name"] == config["current-context"])
        cluster = next(c for c in config["clusters"] if c["name"] == context["context"]["cluster"])[
            "cluster"
        ]
        user = next(u for u in config["users"] if u["name"] == context["context"]["user"])["user"]
        self.url = str(cluster["server"])
        self._pool = connection_pool(cluster, user, kubeconfig.parent)
        self._headers: dict[str, str] = {}
        if token := user.get("token"):
            self._headers["Authorization"] = f"Bearer {token}"

    def request(
        self,
        method: str,
        path: str,
        body: object | None = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_s: float = 20,
    ) -> Wire:
        """One request.

        Raises:
            ApiRefused: the server refused.
        """
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "Accept": accept}
        answer = self._send(method, path, data, headers, timeout_s)
        try:
            found = json.loads(answer.data or b"{}")
        except ValueError:
            found = {"message": answer.data.decode(errors="replace")}
        if answer.status >= 300:
            raise ApiRefused(answer.status, found)
        return dict(found)

    def pod_text(self, pod: str, namespace: str, path: str, *, port: int) -> str:
        """What a pod answers over HTTP, through the API server.

        Raises:
            ApiRefused: it answered with an error, or not at all.
        """
        whole = f"{self.path('Pod', pod, namespace)}:{port}/proxy{path}"
        answer = self._send("GET", whole, None, {"Accept": "*/*"}, 10)
        if answer.status >= 300:
            raise ApiRefused(answer.status, {"message": answer.data.decode(errors="replace")})
        return answer.data.decode()

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Wire, timeout_s: float
    ) -> urllib3.BaseHTTPResponse:
        return self._pool.request(
            method,
            self.url + path,
            body=body,
            headers=self._headers | headers,
            timeout=timeout_s,
            retries=False,
        )

    def path(self, kind: str, name: str = "", namespace: str = "") -> str:
        """Path of an object or a list."""
        prefix, plural = _PREFIXES[kind]
        scope = "" if kind in _CLUSTER_WIDE or not namespace else f"/namespaces/{namespace}"
        return f"{prefix}{scope}/{plural}" + (f"/{name}" if name else "")

    def get(self, kind: str, name: str, namespace: str = "") -> Wire | None:
        """An object, or None."""
        try:
            return self.request("GET", self.path(kind, name, namespace))
        except ApiRefused as refused:
            if refused.status == 404:
                return None
            raise

    def items(
        self, kind: str, namespace: str = "", selector: str = "", *, metadata_only: bool = False
    ) -> list[Wire]:
        """Objects by label."""
        query = f"?labelSelector={selector}" if selector else ""
        accept = _PARTIAL if metadata_only else "application/json"
        found = self.request("GET", self.path(kind, "", namespace) + query, accept=accept)
        return list(found["items"] or ())  # Some kinds answer with null where there is nothing.

    def apply(self, item: Wire, *, manager: str = "tests", namespace: str = "") -> Wire:
        """Server-side apply, strict about unknown fields."""
        metadata = item["metadata"]
        path = self.path(item["kind"], metadata["name"], metadata.get("namespace", namespace))
        query = f"?fieldManager={manager}&force=true&fieldValidation=Strict"
        return self.request("PATCH", path + query, item, content_type=_APPLY)

    def merge(self, kind: str, name: str, patch: Wire, namespace: str = "", sub: str = "") -> Wire:
        """Merge patch of an object or of its subresource."""
        path = self.path(kind, name, namespace) + (f"/{sub}" if sub else "")
        return self.request("PATCH", path, patch, content_type=_MERGE)

    def delete(self, kind: str, name: str, namespace: str = "", grace_s: int | None = None) -> None:
        """Delete an object; one that is gone already is fine."""
        query = "" if grace_s is None else f"?gracePeriodSeconds={grace_s}"
        try:
            self.request("DELETE", self.path(kind, name, namespace) + query)
        except ApiRefused as refused:
            if refused.status != 404:
                raise

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl against this cluster."""
        return run_tool(
            program("kubectl"),
            "--kubeconfig",
            str(self.kubeconfig),
            *arguments,
            stdin=stdin,
            check=check,
            timeout_s=timeout_s,
        )

    def helm(self, *arguments: str, timeout_s: float = 240) -> str:
        """Run helm against this cluster; gives what it printed."""
        command = (program("helm"), "--kubeconfig", str(self.kubeconfig), *arguments)
        return run_tool(*command, timeout_s=timeout_s).stdout


class Space:
    """One namespace."""

    def __init__(self, kube: Kube, name: str) -> None:
        self.kube = kube
        self.name = name

    def get(self, kind: str, name: str) -> Wire | None:
        """An object, or None."""
        return self.kube.get(kind, name, self.name)

    def items(self, kind: str, selector: str = "") -> list[Wire]:
        """Objects by label."""
        return self.kube.items(kind, self.name, selector)

    def apply(self, item: Wire, *, manager: str = "tests") -> Wire:
        """Server-side apply into the namespace."""
        return self.kube.apply(item, manager=manager, namespace=self.name)

    def delete(self, kind: str, name: str) -> None:
        """Delete an object."""
        self.kube.delete(kind, name, self.name)

    def merge(self, kind: str, name: str, patch: Wire, sub: str = "") -> Wire:
        """Merge patch."""
        return self.kube.merge(kind, name, patch, self.name, sub)

    def pods(self, pipeline: str, model: str | None = None) -> list[Wire]:
        """Worker pods, also those that end."""
        selector = f"deepseek.ai/pipeline={pipeline}"
        return self.items("Pod", selector + (f",deepseek.ai/model={model}" if model else ""))

    def pod_uids(self, pipeline: str, model: str | None = None) -> set[str]:
        """Uids of the pods that are not ending."""
        alive = [p for p in self.pods(pipeline, model) if "deletionTimestamp" not in p["metadata"]]
        return {pod["metadata"]["uid"] for pod in alive}

    def status(self, pipeline: str) -> Wire:
        """Status of a pipeline that describes its current generation, otherwise {}."""
        raw = self.get("ModelPipeline", pipeline) or {"metadata": {}}
        status: Wire = raw.get("status") or {}
        current = status.get("observedGeneration") == raw["metadata"].get("generation")
        return status if current else {}

    def condition(self, pipeline: str, kind: str, model: str | None = None) -> Wire:
        """A condition of a pipeline or of one of its models, or {}."""
        holder = self.status(pipeline)
        if model is not None:
            holder = next((m for m in holder.get("models", ()) if m["name"] == model), {})
        return next((c for c in holder.get("conditions", ()) if c["type"] == kind), {})

    def granted(self, pipeline: str) -> dict[str, int]:
        """Granted replicas by model."""
        return {row["model"]: row["granted"] for row in self.status(pipeline).get("allocation", ())}

    def ready(self, pipeline: str) -> bool:
        """Whether the pipeline says that it is ready."""
        return self.condition(pipeline, "Ready").get("status") == "True"

    def wait_ready(self, pipeline: str, *, timeout_s: float = 120) -> float:
        """Wait until the pipeline is ready; gives the seconds that it took."""
        started = time.monotonic()
        eventually(
            lambda: self.ready(pipeline),
            timeout_s=timeout_s,
            what=lambda: f"{pipeline} is not ready: {self.story(pipeline)}",
        )
        return time.monotonic() - started

    def story(self, pipeline: str) -> str:
        """What a person needs to find out why a test waits in vain."""
        status = (self.get("ModelPipeline", pipeline) or {}).get("status")
        pods = [
            (p["metadata"]["name"], p["status"].get("phase"), p["status"].get("containerStatuses"))
            for p in self.pods(pipeline)
        ]
        return json.dumps({"status": status, "pods": pods}, indent=1)

    def remove_pipelines(self, *, timeout_s: float = 90) -> None:
        """Delete every pipeline and wait until its pods are gone."""
        for item in self.items("ModelPipeline"):
            self.delete("ModelPipeline", item["metadata"]["name"])
        eventually(
            lambda: not self.items("Pod", "deepseek.ai/pipeline"),
            timeout_s=timeout_s,
            what="the pods of deleted pipelines are still there",
        )


def deepseek(kube: Kube, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line against the cluster."""
    command: Sequence[str] = (sys.executable, "-m", "deepseek", *arguments)
    return run_tool(*command, check=check, KUBECONFIG=str(kube.kubeconfig))
