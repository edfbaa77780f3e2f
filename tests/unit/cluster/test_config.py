"""What the components are told."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from deploy.cluster import config, manifests
from deploy.cluster.certificates import IDENTITIES
from deploy.cluster.components import (
    ClusterOptions,
    Component,
    cluster_components,
    dump_components,
    option_flags,
    read_components,
)
from deploy.cluster.kind import cluster_config, load_command
from deploy.cluster.layout import NETWORK, PORTS, Layout

LAYOUT = Layout(Path("/home/of/cluster"))
NAMES = [
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
    "metrics-server",
]


def components(options: ClusterOptions | None = None) -> dict[str, Component]:
    programs = {name: Path("/bin") / name for name in NAMES}
    listed = cluster_components(LAYOUT, programs, options or ClusterOptions())
    return {component.name: component for component in listed}


def test_components_start_with_those_that_need_nobody() -> None:
    assert list(components()) == NAMES


def test_everything_that_is_written_lies_below_the_clusters_home() -> None:
    for component in components().values():
        for argument in component.command[1:]:
            _, _, value = argument.partition("=")
            assert not value.startswith("/") or value.startswith(str(LAYOUT.home)), argument


@pytest.mark.parametrize("name", ["kube-controller-manager", "kube-scheduler"])
def test_a_single_controller_needs_no_election(name: str) -> None:
    assert "--leader-elect=false" in components()[name].command


def test_options_reach_the_components_they_are_for() -> None:
    options = ClusterOptions(
        hpa_sync_period="5s", hpa_downscale_stabilization="0s", kube_api_qps=200
    )
    found = components(options)
    manager = found["kube-controller-manager"].command
    assert "--horizontal-pod-autoscaler-sync-period=5s" in manager
    assert "--horizontal-pod-autoscaler-downscale-stabilization=0s" in manager
    for name in ("kube-controller-manager", "kube-scheduler"):
        assert "--kube-api-qps=200" in found[name].command
        assert "--kube-api-burst=400" in found[name].command


def test_without_a_choice_controllers_keep_their_own_limits() -> None:
    assert option_flags(ClusterOptions())["kube-scheduler"] == {}


def test_the_supervisors_list_survives_being_written_down() -> None:
    listed = list(components().values())
    assert read_components(dump_components(listed)) == listed


def test_containerd_keeps_everything_in_the_clusters_home() -> None:
    parsed = tomllib.loads(config.containerd_config(LAYOUT, Path("/usr/lib/cni")))
    runtime = parsed["plugins"]["io.containerd.cri.v1.runtime"]
    assert parsed["version"] == 3
    assert Path(parsed["root"]).is_relative_to(LAYOUT.home)
    assert Path(parsed["state"]).is_relative_to(LAYOUT.home)
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["netns_mounts_under_state_dir"] is True
    assert runtime["cni"] == {"bin_dirs": ["/usr/lib/cni"], "conf_dir": str(LAYOUT.cni_conf)}
    pinned = parsed["plugins"]["io.containerd.cri.v1.images"]["pinned_images"]
    assert pinned == {"sandbox": config.PAUSE_IMAGE}


def test_pods_get_addresses_of_the_bridge_that_is_the_node() -> None:
    bridge, portmap = json.loads(config.cni_network(LAYOUT))["plugins"]
    ((subnet,),) = bridge["ipam"]["ranges"]
    assert bridge["bridge"] == NETWORK.bridge
    assert subnet == {"subnet": NETWORK.pod_cidr, "gateway": NETWORK.node_ip}
    assert portmap["type"] == "portmap"


def test_the_kubelet_runs_on_hosts_with_swap_and_with_old_cgroups() -> None:
    kubelet = yaml.safe_load(config.kubelet_config(LAYOUT))
    assert kubelet["failCgroupV1"] is False
    assert kubelet["failSwapOn"] is False
    assert kubelet["clusterDNS"] == [NETWORK.node_ip]
    assert kubelet["cgroupRoot"] == f"/{NETWORK.cgroup}"
    assert kubelet["imageGCHighThresholdPercent"] == 100


def test_kube_proxy_leaves_connection_tracking_alone() -> None:
    proxy = yaml.safe_load(config.kube_proxy_config(LAYOUT))
    assert proxy["mode"] == "iptables"
    assert proxy["conntrack"]["maxPerCore"] == 0


@pytest.mark.parametrize("resolv_conf", [Path("/etc/resolv.conf"), None])
def test_names_outside_the_cluster_are_forwarded_where_somebody_can_answer(
    resolv_conf: Path | None,
) -> None:
    text = config.corefile(LAYOUT, resolv_conf=resolv_conf)
    assert f"bind {NETWORK.node_ip}" in text
    assert ("forward . /etc/resolv.conf" in text) is (resolv_conf is not None)
    assert text.count("{") == text.count("}")


def test_name_servers_are_read_from_resolv_conf() -> None:
    text = "# nameserver 1.1.1.1\nsearch x\nnameserver 10.0.0.53\nnameserver ::1\noptions ndots:5\n"
    assert config.nameservers(text) == ["10.0.0.53", "::1"]


def test_a_kubeconfig_names_files_or_carries_them(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.pki.mkdir()
    for name in ("ca.crt", "admin.crt", "admin.key"):
        (layout.pki / name).write_text(name)
    by_path = yaml.safe_load(config.kubeconfig(layout, "admin"))
    carried = yaml.safe_load(config.kubeconfig(layout, "admin", embed=True))
    assert by_path["users"][0]["user"]["client-key"] == str(layout.pki / "admin.key")
    assert carried["users"][0]["user"]["client-key-data"] == "YWRtaW4ua2V5"
    server = carried["clusters"][0]["cluster"]["server"]
    assert server == f"https://{NETWORK.node_ip}:{PORTS['kube-apiserver']}"


def test_the_api_server_can_be_reached_under_every_name_that_clients_use() -> None:
    (served,) = [identity for identity in IDENTITIES if identity.name == "apiserver"]
    names = served.alternative_names().split(",")
    for name in ("DNS:kubernetes.default.svc", "DNS:localhost", "IP:127.0.0.1"):
        assert name in names
    assert f"IP:{NETWORK.api_service_ip}" in names
    assert f"IP:{NETWORK.node_ip}" in names


def test_the_node_proves_to_be_the_node_that_it_may_change() -> None:
    (node,) = [identity for identity in IDENTITIES if identity.name == "kubelet"]
    assert node.subject() == f"/O=system:nodes/CN=system:node:{NETWORK.node_name}"


def test_the_metrics_api_leads_to_the_process_on_this_machine() -> None:
    objects = {entry["kind"]: entry for entry in manifests.on_this_machine(b"PEM")}
    assert objects["EndpointSlice"]["endpoints"][0]["addresses"] == [NETWORK.node_ip]
    assert "selector" not in objects["Service"]["spec"]
    assert objects["APIService"]["spec"]["caBundle"] == "UEVN"


@pytest.mark.parametrize(
    ("objects", "kind"),
    [
        (manifests.on_this_machine(b""), "User"),
        (manifests.metrics_in_cluster("localhost/m:1"), "ServiceAccount"),
    ],
    ids=["process", "pod"],
)
def test_every_binding_has_the_subject_that_metrics_server_is(
    objects: list[dict[str, object]], kind: str
) -> None:
    bindings = [entry for entry in objects if "subjects" in entry]
    assert bindings
    for binding in bindings:
        subjects = binding["subjects"]
        assert isinstance(subjects, list)
        assert [subject["kind"] for subject in subjects] == [kind]


def test_kind_gets_the_options_as_a_patch_for_kubeadm() -> None:
    options = ClusterOptions(hpa_sync_period="5s", kube_api_qps=50)
    document = yaml.safe_load(cluster_config("kind: Cluster\nnodes: []\n", options))
    patch = yaml.safe_load(document["kubeadmConfigPatches"][0])
    assert document["kind"] == "Cluster"
    manager = patch["controllerManager"]["extraArgs"]
    assert {"name": "horizontal-pod-autoscaler-sync-period", "value": "5s"} in manager
    assert {"name": "kube-api-qps", "value": "50"} in patch["scheduler"]["extraArgs"]


@pytest.mark.parametrize(("is_file", "how"), [(True, "image-archive"), (False, "docker-image")])
def test_kind_imports_archives_and_images(is_file: bool, how: str) -> None:
    assert load_command("x", is_file=is_file)[:4] == ["kind", "load", how, "x"]
