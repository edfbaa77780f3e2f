"""``deepseek doctor --cluster``: what a cluster lacks, and what to do about each thing.

Why it exists: most first attempts on a cluster fail for reasons that Kubernetes shows in five
different places. Each check reads one of them and ends with what to do. A check that may not look
says so; that is never a problem by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import typer
from deepseek_api.v1alpha1.pipeline import GROUP, VERSION

from deepseek.cli._console import OutputFormat, note, plural, print_json, say, show
from deepseek.cli._errors import FAILED
from deepseek.cli._findings import Finding, findings_table

if TYPE_CHECKING:
    from deepseek._cluster import Answer, Cluster

_OLDEST: Final = (1, 33)
"""First release in which an image can be mounted as a volume."""
_BY_DEFAULT: Final = (1, 35)
"""First release in which that needs no feature gate."""
_CRD: Final = f"modelpipelines.{GROUP}"
_INSTALL: Final = (
    "Install the chart: helm install deepseek charts/deepseek-operator "
    "--namespace deepseek-system --create-namespace --set registry=YOUR_REGISTRY"
)
_DEVICES: Final = {
    "nvidia.com/gpu": "cuda",
    "amd.com/gpu": "rocm",
    "huawei.com/Ascend910": "npu",
}
"""Resource names that device plugins give to nodes, with the kind of device."""
_RIGHTS: Final = (
    ("create", "apply pipelines"),
    ("get", "read pipelines: deepseek explain"),
    ("patch", "change pipelines: deepseek rollout"),
)


def check_cluster(*, context: str | None, namespace: str | None, output: OutputFormat) -> None:
    """Check a cluster and print what was found; exits with 1 when something is missing."""
    from deepseek._cluster import Cluster

    cluster = Cluster.connect(context=context, namespace=namespace)
    findings = look(cluster)
    if output is OutputFormat.JSON:
        print_json(
            {
                "server": cluster.server,
                "namespace": cluster.namespace,
                "checks": [asdict(finding) for finding in findings],
            }
        )
    else:
        say(f"{cluster.server}, namespace {cluster.namespace}", style="bold")
        show(findings_table(findings))
    problems = [finding.what for finding in findings if finding.level == "problem"]
    if problems:
        if output is not OutputFormat.JSON:
            note(f"Not ready to serve: {', '.join(problems)}.", style="red")
        raise typer.Exit(FAILED)


def look(cluster: Cluster) -> list[Finding]:
    """Everything that there is to say about a cluster.

    Raises:
        DeepseekError: the API server cannot be reached.
    """
    return [
        _version(cluster.get("/version")),
        _crd(cluster),
        _operator(cluster),
        _metrics(cluster.get("/apis/metrics.k8s.io/v1beta1")),
        _devices(cluster.get("/api/v1/nodes")),
        *(_right(cluster, verb, use) for verb, use in _RIGHTS),
    ]


def _version(answer: Answer) -> Finding:
    what = "API server"
    if not answer.ok:
        return Finding(what, "note", f"it does not tell its version: {answer.message}")
    parts = (str(answer.body.get("major", "")), str(answer.body.get("minor", "")))
    numbers = [re.match(r"\d+", part) for part in parts]
    text = str(answer.body.get("gitVersion") or ".".join(parts))
    if numbers[0] is None or numbers[1] is None:
        return Finding(what, "note", f"its version '{text}' is no number")
    found = (int(numbers[0][0]), int(numbers[1][0]))
    if found < _OLDEST:
        return Finding(
            what,
            "problem",
            f"{text}; bundles as image volumes need {_dotted(_OLDEST)} or later. Upgrade the "
            "cluster, or use pvc:// sources",
        )
    if found < _BY_DEFAULT:
        return Finding(
            what,
            "note",
            f"{text}; oci:// sources need the feature gate ImageVolume on the API server and on "
            f"the nodes before {_dotted(_BY_DEFAULT)}",
        )
    return Finding(what, "ok", text)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _crd(cluster: Cluster) -> Finding:
    what = "ModelPipeline CRD"
    answer = cluster.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{_CRD}")
    if answer.status in (401, 403):
        # Whoever may not read definitions can still ask which kinds are served.
        served = cluster.get(f"/apis/{GROUP}/{VERSION}")
        names = [one.get("name") for one in served.body.get("resources", ())]
        if served.ok and "modelpipelines" in names:
            return Finding(what, "ok", f"{GROUP}/{VERSION} is served")
        return Finding(what, "problem", f"{GROUP}/{VERSION} is not served. {_INSTALL}")
    if answer.status == 404:
        return Finding(what, "problem", f"it is not installed. {_INSTALL}")
    if not answer.ok:
        return Finding(what, "note", answer.message)
    versions = answer.body.get("spec", {}).get("versions", ())
    if not any(one.get("name") == VERSION and one.get("served") for one in versions):
        return Finding(
            what, "problem", f"it does not serve {VERSION}. Upgrade the chart with crds.enabled"
        )
    condition = _condition(answer.body, "Established")
    if condition.get("status") != "True":
        why = condition.get("message") or "the API server has not accepted it yet"
        return Finding(what, "problem", f"it is not established: {why}. Look again in a moment")
    return Finding(what, "ok", f"{GROUP}/{VERSION} is served")


def _operator(cluster: Cluster) -> Finding:
    what, query = "operator", {"labelSelector": "app.kubernetes.io/name=deepseek-operator"}
    answer = cluster.get("/apis/apps/v1/deployments", query=query)
    scope = "the cluster"
    if answer.status in (401, 403):
        scope = f"namespace {cluster.namespace}"
        path = f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments"
        answer = cluster.get(path, query=query)
    if not answer.ok:
        return Finding(what, "note", f"it cannot be looked for: {answer.message}")
    found = answer.body.get("items", ())
    if not found:
        level: Any = "problem" if scope == "the cluster" else "note"
        return Finding(what, level, f"there is none in {scope}. {_INSTALL}")
    for one in found:
        if one.get("status", {}).get("availableReplicas", 0) > 0:
            return Finding(what, "ok", f"{_full_name(one)} is available")
    name, space = found[0]["metadata"]["name"], found[0]["metadata"].get("namespace")
    why = _condition(found[0], "Available").get("message") or "no pod of it is ready"
    return Finding(
        what,
        "problem",
        f"{_full_name(found[0])} is not available: {str(why).rstrip('.')}. "
        f"See why: kubectl -n {space} describe deployment {name}",
    )


def _metrics(answer: Answer) -> Finding:
    what = "metrics API"
    if answer.ok:
        return Finding(what, "ok", "CPU and memory metrics are there for autoscaling")
    return Finding(
        what, "note", "missing: models with autoscaling keep their replicas. Install metrics-server"
    )


def _devices(answer: Answer) -> Finding:
    what = "devices"
    if not answer.ok:
        return Finding(what, "note", f"nodes cannot be listed: {answer.message}")
    nodes = answer.body.get("items", ())
    if not nodes:
        return Finding(what, "problem", "the cluster has no node. Add one")
    totals: dict[str, int] = {}
    for node in nodes:
        allocatable = node.get("status", {}).get("allocatable", {})
        for name in _DEVICES:
            amount = str(allocatable.get(name, "0"))
            totals[name] = totals.get(name, 0) + (int(amount) if amount.isdigit() else 0)
    there = [f"{count} {name} ({_DEVICES[name]})" for name, count in totals.items() if count]
    on = plural(len(nodes), "node")
    if there:
        return Finding(what, "ok", f"{', '.join(there)} on {on}")
    return Finding(
        what,
        "note",
        f"{on} with processors only; models with device cuda stay unscheduled. For GPUs install "
        "the vendor's device plugin",
    )


def _right(cluster: Cluster, verb: str, use: str) -> Finding:
    what = f"right to {verb}"
    answer = cluster.request(
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        body={
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {
                    "group": GROUP,
                    "resource": "modelpipelines",
                    "verb": verb,
                    "namespace": cluster.namespace,
                }
            },
        },
    )
    if not answer.ok:
        return Finding(what, "note", f"it cannot be asked: {answer.message}")
    if answer.body.get("status", {}).get("allowed"):
        return Finding(what, "ok", use)
    return Finding(
        what,
        "problem",
        f"not allowed in namespace {cluster.namespace} ({use}). Ask for a Role with {verb} on "
        f"modelpipelines.{GROUP}",
    )


def _condition(item: Mapping[str, Any], kind: str) -> dict[str, Any]:
    for one in item.get("status", {}).get("conditions", ()):
        if one.get("type") == kind:
            return dict(one)
    return {}


def _full_name(item: Mapping[str, Any]) -> str:
    metadata = item["metadata"]
    return f"{metadata.get('namespace', 'default')}/{metadata['name']}"
