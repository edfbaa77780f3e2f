"""The one-node cluster starts, works, and leaves nothing behind, whatever happens to it.

These tests own the machine's cluster, so they run only where there is none.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from deepseek_api.errors import DeepseekError

from deploy.cluster import control, host, kind
from deploy.cluster.binaries import CLUSTER_TOOLS, binary, is_built
from deploy.cluster.config import PAUSE_IMAGE
from deploy.cluster.firewall import cluster_chains
from deploy.cluster.layout import NETWORK, PORTS, Layout
from deploy.cluster.prerequisites import check_machine
from deploy.cluster.processes import is_member, read_number
from deploy.cluster.teardown import leftovers, teardown
from tests.support.worker import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
LAYOUT = Layout.default()
WEB = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: pause
        image: {PAUSE_IMAGE}
        imagePullPolicy: Never
        volumeMounts: [{{name: files, mountPath: /files}}]
      volumes:
      - {{name: files, image: {{reference: {PAUSE_IMAGE}, pullPolicy: Never}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: api}}
spec: {{ports: [{{port: 443, targetPort: {PORTS["kube-apiserver"]}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: api, labels: {{kubernetes.io/service-name: api}}}}
addressType: IPv4
endpoints: [{{addresses: [{NETWORK.node_ip}]}}]
ports: [{{port: {PORTS["kube-apiserver"]}}}]
"""


def why_not() -> str | None:
    if kind.is_preferred():
        return "a Docker daemon answers, so kind is used on this machine"
    if LAYOUT.home.exists():
        return "a cluster is on this machine already; 'make cluster-down' removes it"
    if missing := [name for name in CLUSTER_TOOLS if not is_built(name)]:
        return f"binaries are not built: {', '.join(missing)}"
    try:
        check_machine(building=False)
    except DeepseekError as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def bare_machine() -> Iterator[None]:
    if reason := why_not():
        pytest.skip(reason)
    try:
        yield
    finally:
        teardown(LAYOUT)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cluster", *arguments], capture_output=True, text=True
    )


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        [str(binary("kubectl")), f"--kubeconfig={LAYOUT.kubeconfig}", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def machine() -> dict[str, object]:
    """What must be the same before and after."""
    links = sorted(path.name for path in Path("/sys/class/net").iterdir())
    chains = {kind: sorted(cluster_chains(host.rules(kind))) for kind in host.FIREWALLS}
    settings = ("net/ipv4/ip_forward", "kernel/panic", "vm/overcommit_memory")
    values = {name: Path("/proc/sys", name).read_text() for name in settings}
    folders = [name for name in host.SHARED_FOLDERS if Path(name).exists()]
    return {"links": links, "chains": chains, "settings": values, "folders": folders}


def address_of(name: str) -> str | None:
    """Ask the cluster's DNS from this machine."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.settimeout(2)
        asked.sendto(question, (NETWORK.node_ip, 53))
        answer = asked.recv(512)
    return socket.inet_ntoa(answer[-4:]) if struct.unpack(">H", answer[6:8])[0] else None


def test_a_cluster_serves_and_leaves_nothing_behind() -> None:
    before = machine()
    started = command("up")
    assert started.returncode == 0, started.stderr
    assert started.stdout.splitlines()[-1] == f"export KUBECONFIG={LAYOUT.kubeconfig}"
    kubectl("apply", "-f", "-", stdin=WEB)
    kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=60s")
    service = kubectl("get", "service", "api", "-o", "jsonpath={.spec.clusterIP}")
    assert until(lambda: address_of("api.default.svc.cluster.local"), what="DNS") == service
    with socket.create_connection((service, 443), timeout=5):
        pass
    assert "local" in until(lambda: kubectl_or_nothing("top", "node"), timeout_s=60, what="metrics")

    again = command("up")
    assert again.returncode == 0
    assert "runs already" in again.stdout

    ended = command("down")
    assert ended.returncode == 0, ended.stderr
    assert leftovers(LAYOUT) == []
    assert machine() == before


def kubectl_or_nothing(*arguments: str) -> str:
    try:
        return kubectl(*arguments)
    except AssertionError:
        return ""


def test_what_is_killed_comes_back_and_what_is_stopped_stays_down() -> None:
    assert command("up", "--hpa-sync-period", "5s").returncode == 0
    control.kill("kube-scheduler")
    with control.paused("kube-apiserver"):
        assert not answers()
        assert command("status").returncode == 1
    until(answers, timeout_s=60, what="the API server")
    manager = control.pid_of("kube-controller-manager")
    assert b"--horizontal-pod-autoscaler-sync-period=5s" in cmdline(manager)
    assert command("up", "--hpa-sync-period", "7s").returncode == 0
    changed = control.pid_of("kube-controller-manager")
    assert changed != manager
    assert b"--horizontal-pod-autoscaler-sync-period=7s" in cmdline(changed)


def cmdline(pid: int | None) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def answers() -> bool:
    server = yaml.safe_load(LAYOUT.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    try:
        http.client.HTTPConnection(server.removeprefix("https://"), timeout=2).connect()
    except OSError:
        return False
    return True


def end_supervisor() -> None:
    pid = read_number(LAYOUT.supervisor_pid)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_member(pid, LAYOUT.home), what="the supervisor's end")


def end_containerd_and_its_shims() -> None:
    os.kill(read_number(LAYOUT.supervisor_pid) or 0, signal.SIGKILL)
    os.kill(read_number(LAYOUT.pid_file("containerd")) or 0, signal.SIGKILL)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if b"containerd-shim-runc-v2\0-namespace\0k8s.io\0-id" in path.read_bytes():
            os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.mark.parametrize("crash", [end_supervisor, end_containerd_and_its_shims])
def test_a_crashed_cluster_is_removed_completely(crash: Callable[[], None]) -> None:
    before = machine()
    assert command("up").returncode == 0
    kubectl("apply", "-f", "-", stdin=WEB)
    kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=60s")
    crash()
    ended = command("down")
    assert ended.returncode == 0, ended.stderr
    assert leftovers(LAYOUT) == []
    assert machine() == before


def test_half_a_start_is_removed_by_the_next_one() -> None:
    with subprocess.Popen([sys.executable, "-m", "deploy.cluster", "up"]) as half:
        until(LAYOUT.socket.exists, timeout_s=60, what="half a cluster")
        half.kill()
    assert leftovers(LAYOUT)
    started = command("up")
    assert started.returncode == 0, started.stderr
    assert "earlier cluster" in started.stdout


def test_a_start_that_fails_shows_why_and_leaves_nothing() -> None:
    before = machine()
    failed = command("up", "--hpa-sync-period", "tomorrow")
    assert failed.returncode == 1
    assert "kube-controller-manager ended again and again" in failed.stderr
    assert "tomorrow" in failed.stderr
    assert leftovers(LAYOUT) == []
    assert machine() == before


def test_a_port_in_use_is_named_before_anything_changes() -> None:
    with socket.create_server(("127.0.0.1", PORTS["etcd"])):
        failed = command("up")
    assert failed.returncode == 1
    assert f"etcd: {PORTS['etcd']}" in failed.stderr
    assert leftovers(LAYOUT) == []


def test_down_without_a_cluster_says_so() -> None:
    ended = command("down")
    assert ended.returncode == 0
    assert "no cluster" in ended.stdout
