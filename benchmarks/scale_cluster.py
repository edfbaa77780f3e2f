"""A control plane with pretended nodes, for measuring the operator with many pipelines.

Why it exists: hundreds of pods cannot run on one machine, but an operator sees only the API. kwok
says that every pod is ready as soon as it is scheduled; nothing runs and no probe is answered. The
autoscalers' controller does not run, because it would complain all the time that no metrics exist.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from deploy.cluster.binaries import binary, go_environment
from deploy.cluster.versions import TOOLS
from tests.support.apiserver import ApiServer, binaries
from tests.support.operator_process import ROOT

__all__ = ["OPERATOR_USER", "Flow", "ScaleCluster", "operator_rules", "read_flow"]

OPERATOR_USER = "measured-operator"
"""The operator's own user: its requests are counted by their flow."""
_NODES = 10
_STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
_FLOWS = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas"
_BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
_ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
_RULES = ROOT / "charts" / "deepseek-operator" / "files" / "rules.yaml"
_FLOW_METRICS = {
    "apiserver_flowcontrol_dispatched_requests_total": "requests",
    "apiserver_flowcontrol_request_execution_seconds_sum": "request_s",
    "apiserver_flowcontrol_request_wait_duration_seconds_sum": "waited_s",
}


@dataclass(frozen=True, slots=True)
class Flow:
    """What the API server did for the operator, from its start."""

    requests: float = 0.0
    """Requests that it took up; a watch counts once."""
    request_s: float = 0.0
    """Seconds that it spent on them; of a watch only its beginning."""
    waited_s: float = 0.0
    """Seconds for which it let them wait."""


class ScaleCluster(ApiServer):
    """An API server, fast controllers, a scheduler and pretended nodes; a context manager."""

    def __init__(self, folder: Path) -> None:
        names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
        programs = {name: binary(name) for name in names}
        os.environ.setdefault("DEEPSEEK_TEST_KUBE_BIN", str(programs["etcd"].parent))
        super().__init__((binaries() or {}) | programs, folder)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._pretend()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        for name in ("kwok", "kube-scheduler"):
            self._stop(name)
        super().__exit__(*error)

    def operator_user(self) -> Path:
        """Settings file of the operator's user, who may do what the chart's role allows."""
        role = {"metadata": {"name": OPERATOR_USER}, "rules": operator_rules()}
        self.request("POST", _ROLES, role)
        group = "rbac.authorization.k8s.io"
        binding = {
            "metadata": {"name": OPERATOR_USER},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": OPERATOR_USER},
            "subjects": [_subject(kind="User", apiGroup=group)],
        }
        self.request("POST", _BINDINGS, binding)
        rule = {
            "subjects": [{"kind": "User", "user": {"name": OPERATOR_USER}}],
            "resourceRules": [
                {
                    "verbs": ["*"],
                    "apiGroups": ["*"],
                    "resources": ["*"],
                    "namespaces": ["*"],
                    "clusterScope": True,
                }
            ],
        }
        flow = {
            "metadata": {"name": OPERATOR_USER},
            "spec": {
                "matchingPrecedence": 100,
                "priorityLevelConfiguration": {"name": "workload-high"},
                "distinguisherMethod": {"type": "ByUser"},
                "rules": [rule],
            },
        }
        self.request("POST", _FLOWS, flow)
        return self.user(OPERATOR_USER)

    @property
    def port(self) -> int:
        """Where the API server listens on this machine."""
        return self._port

    @property
    def context(self) -> ssl.SSLContext:
        """How an administrator speaks to it."""
        return self._context()

    def pids(self) -> dict[str, int]:
        """Process ids by program."""
        return {name: process.pid for name, process in self._processes.items()}

    def operator_flow(self) -> Flow:
        """What the operator has asked for so far."""
        request = urllib.request.Request(f"{self.url}/metrics")
        with urllib.request.urlopen(request, context=self.context, timeout=30) as answer:
            return read_flow(answer.read().decode())

    def _start_controllers(self) -> None:
        quick = ("--kube-api-qps=400", "--kube-api-burst=800", "--leader-elect=false")
        kubeconfig = f"--kubeconfig={self.kubeconfig}"
        self._run(
            "kube-controller-manager",
            *(kubeconfig, *quick, "--secure-port=0", "--use-service-account-credentials=false"),
            f"--service-account-private-key-file={self._folder}/sa.key",
            "--controllers=deployment-controller,replicaset-controller,"
            "garbage-collector-controller,serviceaccount-controller,namespace-controller,"
            # Without the last one a new node keeps its taint and takes no pod.
            "disruption-controller,node-lifecycle-controller",
            # A busy machine delays kwok's heartbeats, and its pods would never be ready again.
            "--node-monitor-grace-period=24h",
        )
        self._run("kube-scheduler", kubeconfig, *quick, "--secure-port=0")

    def _pretend(self) -> None:
        config = self._folder / "kwok.yaml"
        config.write_text("\n---\n".join(_stages()))
        self._run(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            f"--config={config}",
            "--manage-all-nodes=true",
            "--cidr=10.0.0.0/8",
        )
        amount = {"cpu": "1000", "memory": "10000Gi", "pods": "2000"}
        for number in range(_NODES):
            node = {
                "metadata": {"name": f"pretended-{number}"},
                "status": {"capacity": amount, "allocatable": amount},
            }
            self.request("POST", "/api/v1/nodes", node)


def operator_rules() -> list[dict[str, Any]]:
    """The rules of the chart's cluster-wide role."""
    rules: list[dict[str, Any]] = yaml.safe_load(_RULES.read_text())
    # The template adds this one where the role is cluster-wide.
    return [*rules, {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]


def read_flow(text: str) -> Flow:
    """The operator's share of the metrics of an API server."""
    found = dict.fromkeys(_FLOW_METRICS.values(), 0.0)
    own = f'flow_schema="{OPERATOR_USER}"'
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if name in _FLOW_METRICS and own in rest:
            found[_FLOW_METRICS[name]] += float(line.rpartition(" ")[2])
    return Flow(**found)


def _stages() -> list[str]:
    done = subprocess.run(
        ["go", "mod", "download", "-json", "sigs.k8s.io/kwok"],
        cwd=TOOLS["kwok"].folder,
        env=go_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    folder = Path(json.loads(done.stdout)["Dir"]) / "kustomize" / "stage"
    files = [path for stage in _STAGES for path in sorted((folder / stage).glob("*.yaml"))]
    return [path.read_text() for path in files if path.name != "kustomization.yaml"]


def _subject(**fields: str) -> dict[str, str]:
    return {"name": OPERATOR_USER} | fields
