"""Configuration files of the components, rendered from the layout; pure functions.

Why it exists: what a component is told can be read and tested without starting it. Command lines
are the business of ``components``; nothing is written to disk here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from deploy.cluster.layout import NETWORK, PORTS, Layout

__all__ = [
    "PAUSE_IMAGE",
    "cni_network",
    "containerd_config",
    "corefile",
    "kube_proxy_config",
    "kubeconfig",
    "kubelet_config",
    "nameservers",
]

PAUSE_IMAGE = "localhost/pause:1"
"""The image of the container that holds a pod's namespaces."""


def containerd_config(layout: Layout, cni_plugins: Path) -> str:
    """The configuration of containerd, version 3.

    ``restrict_oom_score_adj`` lets sandboxes start where the capability to lower a score is absent.
    """
    runtime = "plugins.'io.containerd.cri.v1.runtime'"
    return f"""\
version = 3
root = '{layout.data}/containerd'
state = '{layout.run}/containerd'
imports = []

[grpc]
  address = '{layout.socket}'

[plugins.'io.containerd.internal.v1.opt']
  path = '{layout.data}/opt'

[plugins.'io.containerd.nri.v1.nri']
  disable = true

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{PAUSE_IMAGE}'

[{runtime}]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[{runtime}.cni]
  bin_dirs = ['{cni_plugins}']
  conf_dir = '{layout.cni_conf}'

[{runtime}.containerd]
  default_runtime_name = 'runc'

[{runtime}.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'

[{runtime}.containerd.runtimes.runc.options]
  Root = '{layout.run}/runc'
  SystemdCgroup = false
"""


def cni_network(layout: Layout) -> str:
    """The pod network: a bridge whose own address is the node's, addresses from a local pool."""
    bridge = {
        "type": "bridge",
        "bridge": NETWORK.bridge,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(layout.data / "cni"),
            "ranges": [[{"subnet": NETWORK.pod_cidr, "gateway": NETWORK.node_ip}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    network = {"cniVersion": "1.0.0", "name": NETWORK.cni_name, "plugins": [bridge, portmap]}
    return json.dumps(network, indent=2)


def kubelet_config(layout: Layout) -> str:
    """The kubelet's configuration: nothing is evicted or collected before the disk is full."""
    return _yaml(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NETWORK.node_ip,
            "port": PORTS["kubelet"],
            "healthzPort": PORTS["kubelet (health)"],
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(layout.pki / "kubelet.crt"),
            "tlsPrivateKeyFile": str(layout.pki / "kubelet.key"),
            "containerRuntimeEndpoint": f"unix://{layout.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{NETWORK.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "clusterDNS": [NETWORK.node_ip],
            "clusterDomain": NETWORK.domain,
            "maxPods": 250,
            "podLogsDir": str(layout.logs / "pods"),
            "volumePluginDir": str(layout.data / "volume-plugins"),
            "evictionHard": {
                "memory.available": "50Mi",
                "nodefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1%",
                "imagefs.inodesFree": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "5s",
        }
    )


def kube_proxy_config(layout: Layout) -> str:
    """kube-proxy in iptables mode; it leaves the limits of connection tracking alone."""
    return _yaml(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(layout.conf / "kube-proxy.kubeconfig")},
            "clusterCIDR": NETWORK.pod_cidr,
            "hostnameOverride": NETWORK.node_name,
            "healthzBindAddress": f"127.0.0.1:{PORTS['kube-proxy (health)']}",
            "metricsBindAddress": f"127.0.0.1:{PORTS['kube-proxy (metrics)']}",
            "iptables": {"localhostNodePorts": False, "minSyncPeriod": "100ms"},
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "oomScoreAdj": 0,
        }
    )


def corefile(layout: Layout, *, resolv_conf: Path | None) -> str:
    """CoreDNS: the cluster's zone, and the machine's own servers for everything else.

    Args:
        layout: the cluster.
        resolv_conf: the machine's list of servers; None where there is none to ask.
    """
    forward = f"    forward . {resolv_conf}\n" if resolv_conf else ""
    return f"""\
.:53 {{
    bind {NETWORK.node_ip}
    errors
    ready 127.0.0.1:{PORTS["coredns (ready)"]}
    kubernetes {NETWORK.domain} in-addr.arpa ip6.arpa {{
        kubeconfig {layout.conf}/coredns.kubeconfig
        pods insecure
        ttl 5
        fallthrough in-addr.arpa ip6.arpa
    }}
{forward}    cache 5
}}
"""


def kubeconfig(layout: Layout, user: str, *, embed: bool = False) -> str:
    """How one identity reaches the API server.

    Args:
        layout: the cluster.
        user: the name of the identity.
        embed: put certificates into the file, so that it works from everywhere.
    """

    def reference(key: str, name: str) -> dict[str, str]:
        path = layout.pki / name
        if embed:
            return {f"{key}-data": base64.b64encode(path.read_bytes()).decode()}
        return {key: str(path)}

    cluster: dict[str, Any] = {"server": f"https://{NETWORK.node_ip}:{PORTS['kube-apiserver']}"}
    cluster |= reference("certificate-authority", "ca.crt")
    credentials = reference("client-certificate", f"{user}.crt")
    credentials |= reference("client-key", f"{user}.key")
    name = "deepseek"
    return _yaml(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "current-context": name,
        }
    )


def nameservers(resolv_conf: str) -> Sequence[str]:
    """The servers that a ``resolv.conf`` names."""
    fields = (line.split() for line in resolv_conf.splitlines())
    return [parts[1] for parts in fields if len(parts) > 1 and parts[0] == "nameserver"]


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False)
