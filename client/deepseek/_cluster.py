"""The client's way to a Kubernetes cluster: a few requests and their failures as sentences.

Why it exists: only the cluster commands need the ``kubernetes`` package, so it is imported here,
late, and nowhere else in the client. It finds and trusts the API server as ``kubectl`` does;
objects are dicts in wire form. Serving and calling models never needs this module.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final, Self

import yaml
from deepseek_api.errors import ConfigurationError, DeepseekError, ErrorCode
from deepseek_api.v1alpha1.pipeline import GROUP, VERSION

__all__ = ["Answer", "Cluster", "pipeline_path"]

TIMEOUT_S: Final = 15.0
"""Longest time of one request, seconds."""
MERGE_PATCH: Final = "application/merge-patch+json"
_MISSING_PACKAGE: Final = "The package 'kubernetes' is needed to talk to a cluster."
_INSTALL: Final = "Install it: pip install 'deepseek[operator]'"


class Answer:
    """What the API server answered."""

    __slots__ = ("body", "status")

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status = status
        self.body = body

    @property
    def ok(self) -> bool:
        """Whether the request succeeded."""
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        """The server's own text of a failure."""
        return str(self.body.get("message") or f"HTTP status {self.status}").rstrip(".")


class Cluster:
    """A connection to an API server."""

    def __init__(self, api: Any, *, namespace: str, server: str) -> None:
        """Use `connect` instead."""
        self._api = api
        self.namespace = namespace
        self.server = server

    @classmethod
    def connect(cls, *, context: str | None = None, namespace: str | None = None) -> Self:
        """Find the cluster as ``kubectl`` does: ``KUBECONFIG``, the home folder, or the pod's own.

        Args:
            context: context of the kubeconfig; default: the current one.
            namespace: namespace; default: the context's.

        Raises:
            ConfigurationError: the package is missing, or there is no usable kubeconfig.
        """
        try:
            from kubernetes import client, config
        except ImportError:
            raise ConfigurationError(
                _MISSING_PACKAGE, hint=_INSTALL, reason="PackageNotInstalled"
            ) from None
        loading: Any = config  # It has no types.
        settings = client.Configuration()
        # Asked for here, because the package reads the variable when it is imported.
        file = os.environ.get("KUBECONFIG") or None
        try:
            if context is None and file is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                loading.load_incluster_config(client_configuration=settings)
                found = _pod_namespace()
            else:
                loading.load_kube_config(
                    config_file=file, context=context, client_configuration=settings
                )
                found = _context_namespace(loading.list_kube_config_contexts(file), context)
        except (config.ConfigException, yaml.YAMLError, OSError, ValueError) as error:
            raise ConfigurationError(
                f"There is no usable cluster configuration: {_why(error)}",
                hint="Set KUBECONFIG to the file that kubectl uses, or start one: make cluster",
                reason="NoCluster",
            ) from error
        settings.retries = 0
        return cls(
            client.ApiClient(settings),
            namespace=namespace or found or "default",
            server=str(settings.host),
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Send one request; a refusal is an answer.

        Raises:
            DeepseekError: the API server cannot be reached (UNAVAILABLE).
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json", "Content-Type": content_type}
        sent = self._api.param_serialize(
            method=method,
            resource_path=path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=None if body is None else dict(body),
            auth_settings=["BearerToken"],
        )
        try:
            response = self._api.call_api(*sent, _request_timeout=TIMEOUT_S)
            raw = response.read()
        except (ApiException, HTTPError, OSError) as error:
            raise DeepseekError(
                f"The API server {self.server} cannot be reached: {_why(error)}",
                hint="Check that the cluster runs and that KUBECONFIG names it.",
                code=ErrorCode.UNAVAILABLE,
                reason="ClusterUnreachable",
            ) from error
        return Answer(int(response.status), _object(raw))

    def get(self, path: str, *, query: Mapping[str, str] | None = None) -> Answer:
        """Read an object or a list."""
        return self.request("GET", path, query=query)

    def pipeline(self, name: str) -> dict[str, Any]:
        """The ModelPipeline of this name.

        Raises:
            DeepseekError: there is none, or it cannot be read.
        """
        answer = self.get(pipeline_path(self.namespace, name))
        if answer.ok:
            return answer.body
        raise self._refused(answer, name)

    def annotate(self, name: str, annotations: Mapping[str, str]) -> dict[str, Any]:
        """Set annotations of a ModelPipeline and give it back.

        Raises:
            DeepseekError: there is none, or it cannot be changed.
        """
        answer = self.request(
            "PATCH",
            pipeline_path(self.namespace, name),
            body={"metadata": {"annotations": dict(annotations)}},
            content_type=MERGE_PATCH,
        )
        if answer.ok:
            return answer.body
        raise self._refused(answer, name)

    def deployments(self, selector: str) -> list[dict[str, Any]]:
        """Deployments of the namespace by label.

        Raises:
            DeepseekError: they cannot be listed.
        """
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"
        answer = self.get(path, query={"labelSelector": selector})
        if answer.ok:
            return list(answer.body.get("items", ()))
        raise self._refused(answer, "deployments")

    def _refused(self, answer: Answer, name: str) -> DeepseekError:
        if answer.status == 404 and answer.body.get("reason") == "NotFound" and _has_name(answer):
            return DeepseekError(
                f"There is no ModelPipeline '{name}' in namespace '{self.namespace}'.",
                hint="List them: kubectl get modelpipelines --all-namespaces",
                code=ErrorCode.NOT_FOUND,
                reason="PipelineNotFound",
            )
        if answer.status == 404:
            return DeepseekError(
                f"The cluster {self.server} does not know ModelPipelines.",
                hint="Install the operator's chart; 'deepseek doctor --cluster' says what misses.",
                code=ErrorCode.FAILED_PRECONDITION,
                reason="CrdMissing",
            )
        if answer.status in (401, 403):
            return DeepseekError(
                f"The API server does not allow it: {answer.message}.",
                hint="Ask for the rights; 'deepseek doctor --cluster' lists what is needed.",
                code=ErrorCode.FAILED_PRECONDITION,
                reason="NotAllowed",
            )
        return DeepseekError(
            f"The API server refused: {answer.message}.",
            code=ErrorCode.UNAVAILABLE,
            reason="RefusedByServer",
        )


def pipeline_path(namespace: str, name: str) -> str:
    """Path of a ModelPipeline at the API server."""
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/modelpipelines/{name}"


def _has_name(answer: Answer) -> bool:
    # Without the CRD the server answers 404 too, but names no object.
    return bool((answer.body.get("details") or {}).get("name"))


def _object(raw: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(raw or b"{}")
    except ValueError:
        return {"message": (raw or b"").decode("utf-8", "replace").strip()[:300]}
    return value if isinstance(value, dict) else {}


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return " ".join(str(reason or error).split())[:300]


def _context_namespace(contexts: Any, wanted: str | None) -> str | None:
    listed, active = contexts
    chosen = active
    if wanted is not None:
        chosen = next((one for one in listed if one.get("name") == wanted), active)
    name = (chosen or {}).get("context", {}).get("namespace")
    return str(name) if name else None


def _pod_namespace() -> str | None:
    try:
        with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace") as file:
            return file.read().strip() or None
    except OSError:
        return None
