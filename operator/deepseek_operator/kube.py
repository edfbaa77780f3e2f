"""The API server over HTTP: the implementation of `cluster.Cluster`.

Why it exists: this is the operator's only importer of ``kubernetes`` (which finds the server and
its credentials) and the only place that builds requests, so that the least set of permissions can
be read off one file. Objects go through as dicts; nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType, ClientMiddlewareType
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration

from deepseek_operator import labels
from deepseek_operator.cluster import (
    ClusterError,
    Conflict,
    Key,
    NotFound,
    Rejected,
    ServerFault,
    Snapshot,
    Throttled,
    Unauthorized,
    Unavailable,
    controller_of,
)
from deepseek_operator.devices import DeviceCounter
from deepseek_operator.observed import CHILD_KINDS, K8sObject, ObjectKey, Observed
from deepseek_operator.resources import RESOURCES, object_path

__all__ = ["Connection", "KubeCluster", "connect"]

REQUEST_TIMEOUT_S: Final = 30.0
"""A request that takes longer has failed."""
CONNECT_TIMEOUT_S: Final = 10.0
"""Time to reach the server."""
_PAGE: Final = 500
_CONNECTIONS: Final = 32
_NOT_ENDED: Final = "status.phase!=Succeeded,status.phase!=Failed"
_NO_VERSION: Final = "1"
"""A version that no object ever has, since etcd counts the first write as 2. An apply with a
version creates what does not exist and is a conflict with what has another version; found out
with every kind of child on Kubernetes 1.36."""
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


class Connection:
    """Address, trust and credentials of an API server; makes sessions for requests."""

    def __init__(self, configuration: Configuration) -> None:
        self._client = ApiClient(configuration)

    @property
    def server(self) -> str:
        """Address of the server, without a slash at the end."""
        return str(self._client.configuration.host).rstrip("/")

    def session(self, *observers: ClientMiddlewareType, limit: int = 0) -> aiohttp.ClientSession:
        """A session that authenticates every request; credentials are read anew as they rotate.

        Args:
            observers: see every request and its answer.
            limit: most connections; 0: any number.
        """
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ssl=self._client.rest_client.ssl_context),
            middlewares=(self._authenticate, *observers),
            headers={"Accept": "application/json", "User-Agent": labels.OPERATOR_NAME},
            read_bufsize=2**21,
        )

    async def _authenticate(
        self, request: aiohttp.ClientRequest, handler: ClientHandlerType
    ) -> aiohttp.ClientResponse:
        headers: dict[str, str] = {}
        await self._client.update_params_for_auth(
            headers, [], ["BearerToken"], request.url.path, request.method, None
        )
        request.headers.update(headers)
        return await handler(request)


async def connect() -> Connection:
    """Find the cluster.

    It is the one that ``KUBECONFIG`` names, else the one that this process runs in, else the one
    of the user's default settings file.

    Raises:
        Unavailable: none of them can be used.
    """
    configuration = Configuration()
    try:
        if "KUBECONFIG" not in os.environ and _SERVICE_ACCOUNT.exists():
            kube_config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        else:
            # The library reads the variable when it is imported, which may be too early.
            await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration
            )
    except (kube_config.ConfigException, OSError) as error:
        raise Unavailable(f"No cluster can be reached: {error}") from error
    return Connection(configuration)


class KubeCluster:
    """The API server; use as an async context manager.

    Args:
        connection: where it is.
        namespaces: namespaces to look after; empty: all.
    """

    def __init__(self, connection: Connection, *, namespaces: Sequence[str] = ()) -> None:
        self._server = connection.server
        self._session = connection.session(limit=_CONNECTIONS)
        self._namespaces = tuple(namespaces)
        self._devices = DeviceCounter(
            nodes=lambda: self._pages("Node", None),
            pods=lambda chosen: self._pages("Pod", None, fieldSelector=f"{chosen},{_NOT_ENDED}"),
            clock=time.monotonic,
        )

    async def __aenter__(self) -> KubeCluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def serves_pipelines(self) -> bool:
        """Whether the server knows the kind ModelPipeline."""
        path = RESOURCES["ModelPipeline"].api
        found = await self._request("GET", path, missing_ok=True)
        return any(item.get("name") == "modelpipelines" for item in found.get("resources", ()))

    async def get_pipeline(self, namespace: str, name: str) -> K8sObject | None:
        """See `Cluster`."""
        return await self._get("ModelPipeline", namespace, name)

    async def list_pipelines(self) -> list[Key]:
        """See `Cluster`."""
        found: list[Key] = []
        for namespace in self._namespaces or (None,):
            items = await self._list("ModelPipeline", namespace)
            found += [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in items]
        return found

    async def observe(self, pipeline: K8sObject, *, needed: Iterable[ObjectKey]) -> Snapshot:
        """See `Cluster`."""
        namespace = pipeline["metadata"]["namespace"]
        selector = f"{labels.PIPELINE}={pipeline['metadata']['name']}"
        refused: dict[str, str] = {}

        async def listed(kind: str, **query: str) -> list[K8sObject]:
            try:
                return await self._list(kind, namespace, **query)
            except Rejected as error:
                refused[kind] = str(error)
                return []

        autoscaler = "HorizontalPodAutoscaler"
        selected = [kind for kind in (*CHILD_KINDS, "Pod") if kind != autoscaler]
        results = await asyncio.gather(
            listed(autoscaler), *(listed(kind, labelSelector=selector) for kind in selected)
        )
        autoscalers, by_kind = results[0], dict(zip(selected, results[1:], strict=True))
        uid = pipeline["metadata"]["uid"]
        children: dict[ObjectKey, K8sObject] = {}
        for item in (
            *autoscalers,
            *(i for kind in selected if kind != "Pod" for i in by_kind[kind]),
        ):
            if (controller_of(item) or {}).get("uid") == uid:
                children[item["kind"], item["metadata"]["name"]] = item
        missing = [key for key in needed if key not in children and key[0] not in refused]
        others = await self.find(namespace, missing)
        strangers: dict[ObjectKey, K8sObject] = {}
        for key, item in others.items():
            own = (controller_of(item) or {}).get("uid") == uid
            (children if own else strangers)[key] = item
        pods = by_kind["Pod"]
        unready = [pod for pod in pods if not _ready(pod)]
        observed = Observed(
            pipeline=pipeline,
            children=children,
            strangers=strangers,
            autoscalers=tuple(autoscalers),
            pods=tuple(pods),
            events=await self._warnings(namespace, unready) if unready else (),
        )
        return Snapshot(observed=observed, refused=refused)

    async def spare_devices(
        self, resources: AbstractSet[str], *, max_age_s: float
    ) -> Mapping[str, int]:
        """See `Cluster`."""
        if self._namespaces:
            return {}
        try:
            return await self._devices.spare(resources, max_age_s=max_age_s)
        except Rejected:
            return {}

    async def find(self, namespace: str, keys: Iterable[ObjectKey]) -> dict[ObjectKey, K8sObject]:
        """See `Cluster`; a kind that must not be read counts as not found."""
        wanted = tuple(keys)

        async def one(kind: str, name: str) -> K8sObject | None:
            try:
                return await self._get(kind, namespace, name)
            except Rejected:
                return None

        found = await asyncio.gather(*(one(kind, name) for kind, name in wanted))
        return {key: item for key, item in zip(wanted, found, strict=True) if item is not None}

    async def apply(self, body: K8sObject, *, manager: str, uid: str | None) -> K8sObject:
        """See `Cluster`."""
        metadata = body["metadata"]
        # Without a precondition a forced apply takes over whatever has the name by now. A create
        # would not do: its fields stay owned by it, so that no later apply could remove one.
        meant = {"resourceVersion": _NO_VERSION} if uid is None else {"uid": uid}
        return await self._request(
            "PATCH",
            object_path(body["kind"], metadata["namespace"], metadata["name"]),
            query={"fieldManager": manager, "force": "true"},
            body={**body, "metadata": {**metadata, **meant}},
            content_type=_APPLY,
        )

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        """See `Cluster`."""
        await self._request(
            "DELETE",
            object_path(kind, namespace, name),
            body={
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "preconditions": {"uid": uid},
                "propagationPolicy": "Background",
            },
            missing_ok=True,
        )

    async def patch_status(self, pipeline: K8sObject, patch: Mapping[str, object]) -> None:
        """See `Cluster`."""
        metadata = pipeline["metadata"]
        path = object_path("ModelPipeline", metadata["namespace"], metadata["name"])
        await self._request(
            "PATCH",
            f"{path}/status",
            query={"fieldManager": labels.MANAGER},
            # The uid keeps a status from landing on another pipeline of the same name.
            body={"metadata": {"uid": metadata["uid"]}, "status": patch},
            content_type=_MERGE,
        )

    async def create_event(self, event: K8sObject) -> None:
        """See `Cluster`."""
        path = object_path("Event", event["metadata"]["namespace"])
        await self._request("POST", path, body=event, content_type="application/json")

    async def _warnings(self, namespace: str, pods: Sequence[K8sObject]) -> tuple[K8sObject, ...]:
        names = {pod["metadata"]["name"] for pod in pods}
        found: list[K8sObject] = []
        try:
            # Core events, because the kubelet and the controllers still write those.
            async for page in self._pages(
                "CoreEvent", namespace, fieldSelector="type=Warning,involvedObject.kind=Pod"
            ):
                # Page by page: a namespace may hold many thousands.
                found += [event for event in page if event["involvedObject"].get("name") in names]
        except Rejected:
            return ()
        return tuple(found)

    async def _get(self, kind: str, namespace: str, name: str) -> K8sObject | None:
        return (
            await self._request("GET", object_path(kind, namespace, name), missing_ok=True) or None
        )

    async def _list(self, kind: str, namespace: str | None, **query: str) -> list[K8sObject]:
        return [item async for page in self._pages(kind, namespace, **query) for item in page]

    async def _pages(
        self, kind: str, namespace: str | None, **query: str
    ) -> AsyncIterator[list[K8sObject]]:
        more: str | None = ""
        while more is not None:
            page = await self._request(
                "GET",
                object_path(kind, namespace),
                query={"limit": str(_PAGE), **query, **({"continue": more} if more else {})},
            )
            # Items of a list come without these two.
            about = {"apiVersion": RESOURCES[kind].api_version, "kind": kind}
            yield [{**about, **item} for item in page.get("items") or ()]
            more = page.get("metadata", {}).get("continue") or None

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        content_type: str = "application/json",
        missing_ok: bool = False,
    ) -> dict[str, Any]:
        try:
            async with self._session.request(
                method,
                self._server + path,
                params=query,
                data=None if body is None else json.dumps(body).encode(),
                headers=None if body is None else {"Content-Type": content_type},
                timeout=aiohttp.ClientTimeout(
                    total=REQUEST_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S
                ),
            ) as response:
                content = await response.read()
                if response.status == 404 and missing_ok:
                    return {}
                if response.status >= 400:
                    raise _error(response, content, f"{method} {path}")
                found: dict[str, Any] = json.loads(content)
                return found
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"{method} {path}: {str(error) or type(error).__name__}") from error


def _ready(pod: K8sObject) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _error(response: aiohttp.ClientResponse, content: bytes, what: str) -> ClusterError:
    try:
        status = json.loads(content)
        message = str(status["message"])
        details = status.get("details") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        message, details = content.decode(errors="replace")[:500].strip(), {}
    text = message or f"{what}: {response.status} {response.reason}"
    match response.status:
        case 409:
            return Conflict(text)
        case 429:
            wait = response.headers.get("Retry-After") or details.get("retryAfterSeconds") or 1
            return Throttled(text, retry_after_s=_seconds(str(wait)))
        case 404:
            return NotFound(text)
        case 400 | 403 | 405 | 413 | 415 | 422:
            return Rejected(text)
        case 401:
            return Unauthorized(f"401: {text}")
        case 500:
            return ServerFault(text)
    return Unavailable(f"{response.status}: {text}")


def _seconds(text: str) -> float:
    try:
        return min(max(float(text), 0.1), 60.0)
    except ValueError:
        return 1.0
