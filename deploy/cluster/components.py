"""The command lines of everything that runs, in the order in which it starts.

Why it exists: the supervisor, the tests that break things on purpose and ``status`` share one list.
Pure functions; nothing is started here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.cluster.layout import NETWORK, PORTS, Layout

__all__ = [
    "ClusterOptions",
    "Component",
    "cluster_components",
    "dump_components",
    "read_components",
]


METRICS_FLAGS = ("--metric-resolution=10s", "--kubelet-request-timeout=5s")
"""metrics-server at its shortest interval; it wants a shorter timeout for one node then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What a person or a test may choose; durations as Kubernetes writes them."""

    hpa_sync_period: str = "15s"
    """Time between two looks of the autoscaling controller."""
    hpa_downscale_stabilization: str = "5m0s"
    """How long the autoscaler remembers higher recommendations."""
    kube_api_qps: int | None = None
    """Requests per second that the controllers and the scheduler allow themselves; None: their
    defaults."""


@dataclass(frozen=True, slots=True)
class Component:
    """One process of the control plane or the node."""

    name: str
    """Its name, also of its log and of its process id's file."""
    command: tuple[str, ...]
    """The program and its arguments."""


def cluster_components(
    layout: Layout, programs: dict[str, Path], options: ClusterOptions
) -> list[Component]:
    """Every component; the first two need nobody, all others the API server.

    Args:
        layout: the cluster.
        programs: paths of the binaries by name.
        options: what was chosen.
    """
    flags = {
        "etcd": _etcd(layout),
        "containerd": [f"--config={layout.conf}/containerd.toml"],
        "kube-apiserver": _apiserver(layout),
        "kube-controller-manager": _controller_manager(layout, options),
        "kube-scheduler": _scheduler(layout, options),
        "kubelet": _kubelet(layout),
        "kube-proxy": [f"--config={layout.conf}/kube-proxy.yaml"],
        "coredns": [f"-conf={layout.conf}/Corefile"],
        "metrics-server": _metrics_server(layout),
    }
    return [Component(name, (str(programs[name]), *arguments)) for name, arguments in flags.items()]


def option_flags(options: ClusterOptions) -> dict[str, dict[str, str]]:
    """What the options mean: values by flag by component, flags without dashes in front."""
    limits = {}
    if options.kube_api_qps is not None:
        limits = {
            "kube-api-qps": str(options.kube_api_qps),
            "kube-api-burst": str(2 * options.kube_api_qps),
        }
    autoscaling = {
        "horizontal-pod-autoscaler-sync-period": options.hpa_sync_period,
        "horizontal-pod-autoscaler-downscale-stabilization": options.hpa_downscale_stabilization,
    }
    return {"kube-controller-manager": autoscaling | limits, "kube-scheduler": limits}


def dump_components(components: Sequence[Component]) -> str:
    """The list as text for the supervisor."""
    return json.dumps([asdict(component) for component in components], indent=1)


def read_components(text: str) -> list[Component]:
    """The inverse of `dump_components`."""
    return [Component(entry["name"], tuple(entry["command"])) for entry in json.loads(text)]


def _serving(layout: Layout, name: str) -> list[str]:
    return [
        f"--tls-cert-file={layout.pki}/{name}.crt",
        f"--tls-private-key-file={layout.pki}/{name}.key",
    ]


def _delegating(layout: Layout, name: str) -> list[str]:
    path = f"{layout.conf}/{name}.kubeconfig"
    kinds = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    return [f"--{kind}={path}" for kind in kinds]


def _chosen(component: str, options: ClusterOptions) -> list[str]:
    return [f"--{name}={value}" for name, value in option_flags(options)[component].items()]


def _etcd(layout: Layout) -> list[str]:
    client = f"https://127.0.0.1:{PORTS['etcd']}"
    peer = f"http://127.0.0.1:{PORTS['etcd (peers)']}"
    return [
        f"--name={NETWORK.node_name}",
        f"--data-dir={layout.data}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={NETWORK.node_name}={peer}",
        f"--cert-file={layout.pki}/etcd.crt",
        f"--key-file={layout.pki}/etcd.key",
        f"--trusted-ca-file={layout.pki}/ca.crt",
        "--client-cert-auth",
        "--unsafe-no-fsync",
        f"--quota-backend-bytes={8 << 30}",
        "--log-level=warn",
    ]


def _apiserver(layout: Layout) -> list[str]:
    pki = layout.pki
    return [
        f"--bind-address={NETWORK.node_ip}",
        f"--advertise-address={NETWORK.node_ip}",
        f"--secure-port={PORTS['kube-apiserver']}",
        *_serving(layout, "apiserver"),
        f"--client-ca-file={pki}/ca.crt",
        f"--etcd-servers=https://127.0.0.1:{PORTS['etcd']}",
        f"--etcd-cafile={pki}/ca.crt",
        f"--etcd-certfile={pki}/etcd-client.crt",
        f"--etcd-keyfile={pki}/etcd-client.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        f"--service-cluster-ip-range={NETWORK.service_cidr}",
        f"--service-account-issuer=https://kubernetes.default.svc.{NETWORK.domain}",
        f"--service-account-key-file={pki}/service-accounts.pub",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet.key",
        f"--requestheader-client-ca-file={pki}/ca.crt",
        "--requestheader-allowed-names=aggregator",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki}/aggregator.crt",
        f"--proxy-client-key-file={pki}/aggregator.key",
        "--enable-aggregator-routing",
    ]


def _controller_manager(layout: Layout, options: ClusterOptions) -> list[str]:
    name, pki = "kube-controller-manager", layout.pki
    return [
        *_delegating(layout, name),
        *_serving(layout, name),
        "--bind-address=127.0.0.1",
        f"--secure-port={PORTS[name]}",
        f"--service-account-private-key-file={pki}/service-accounts.key",
        f"--root-ca-file={pki}/ca.crt",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--use-service-account-credentials",
        "--leader-elect=false",
        *_chosen(name, options),
    ]


def _scheduler(layout: Layout, options: ClusterOptions) -> list[str]:
    name = "kube-scheduler"
    return [
        *_delegating(layout, name),
        *_serving(layout, name),
        "--bind-address=127.0.0.1",
        f"--secure-port={PORTS[name]}",
        "--leader-elect=false",
        *_chosen(name, options),
    ]


def _kubelet(layout: Layout) -> list[str]:
    return [
        f"--config={layout.conf}/kubelet.yaml",
        f"--kubeconfig={layout.conf}/kubelet.kubeconfig",
        f"--root-dir={layout.home}/kubelet",
        f"--cert-dir={layout.pki}",
        f"--hostname-override={NETWORK.node_name}",
        f"--node-ip={NETWORK.node_ip}",
    ]


def _metrics_server(layout: Layout) -> list[str]:
    name = "metrics-server"
    return [
        *_delegating(layout, name),
        *_serving(layout, name),
        f"--bind-address={NETWORK.node_ip}",
        f"--secure-port={PORTS[name]}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-certificate-authority={layout.pki}/ca.crt",
        *METRICS_FLAGS,
    ]
