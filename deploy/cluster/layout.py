"""Where the one-node cluster lives: folders, addresses and ports, all in one place.

Why it exists: one machine runs one such cluster, so everything about its place is fixed and known
to every command without asking the cluster. Do not create or change anything here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NETWORK", "PORTS", "Layout", "Network", "cache_dir"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Names and addresses of the cluster."""

    node_name: str = "local"
    """The name of the only node."""
    bridge: str = "deepseek0"
    """The bridge that all pods are attached to."""
    node_ip: str = "10.244.0.1"
    """The address of the bridge, which is the node's address and where CoreDNS answers."""
    pod_prefix: int = 16
    """Bits of the network part of ``node_ip``."""
    pod_cidr: str = "10.244.0.0/16"
    """Addresses of pods."""
    service_cidr: str = "10.96.0.0/16"
    """Addresses of Services."""
    api_service_ip: str = "10.96.0.1"
    """The first Service address: the API server, seen from pods."""
    domain: str = "cluster.local"
    """The DNS zone of the cluster."""
    cni_name: str = "deepseek"
    """The name of the CNI network."""
    cgroup: str = "deepseek-cluster"
    """The cgroup below the root that holds all pods."""


NETWORK = Network()

PORTS: dict[str, int] = {
    "etcd": 2379,
    "etcd (peers)": 2380,
    "kube-apiserver": 6443,
    "kube-controller-manager": 10257,
    "kube-scheduler": 10259,
    "kubelet": 10250,
    "kubelet (health)": 10248,
    "kube-proxy (health)": 10256,
    "kube-proxy (metrics)": 10249,
    "metrics-server": 10443,
    "coredns (ready)": 10553,
}
"""TCP ports on this machine by who listens."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one cluster."""

    home: Path
    """Everything that the cluster writes lies below this folder; ``down`` removes it."""

    @staticmethod
    def default() -> Layout:
        """The cluster of this machine: ``DEEPSEEK_CLUSTER_HOME``, else below ``/var/lib``."""
        chosen = os.environ.get("DEEPSEEK_CLUSTER_HOME", "/var/lib/deepseek-cluster")
        return Layout(Path(chosen).resolve())

    @property
    def run(self) -> Path:
        """Sockets, process ids and what must not survive the cluster."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        """One log for each component."""
        return self.home / "logs"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.home / "pki"

    @property
    def conf(self) -> Path:
        """Rendered configuration files and kubeconfigs of components."""
        return self.home / "conf"

    @property
    def cni_conf(self) -> Path:
        """CNI network configurations."""
        return self.home / "cni"

    @property
    def data(self) -> Path:
        """Data folders of components."""
        return self.home / "data"

    @property
    def socket(self) -> Path:
        """Where containerd answers."""
        return self.run / "containerd.sock"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "kubeconfig"

    @property
    def components_file(self) -> Path:
        """The command lines that the supervisor keeps running."""
        return self.run / "components.json"

    @property
    def before_file(self) -> Path:
        """What this machine looked like before the cluster was started."""
        return self.home / "before.json"

    @property
    def supervisor_pid(self) -> Path:
        """The process id of the supervisor."""
        return self.run / "supervisor.pid"

    def pid_file(self, component: str) -> Path:
        """The process id of one component."""
        return self.run / f"{component}.pid"

    def pause_file(self, component: str) -> Path:
        """While this file exists the supervisor leaves the component down."""
        return self.run / f"{component}.paused"

    def ends_file(self, component: str) -> Path:
        """How often the component ended by itself."""
        return self.run / f"{component}.ends"

    def log_file(self, component: str) -> Path:
        """The log of one component."""
        return self.logs / f"{component}.log"


def cache_dir() -> Path:
    """Where built binaries stay: ``DEEPSEEK_CACHE_CLUSTER``, else the user's cache folder."""
    chosen = os.environ.get("DEEPSEEK_CACHE_CLUSTER")
    if chosen:
        return Path(chosen).resolve() / "deepseek" / "cluster"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "deepseek" / "cluster"
