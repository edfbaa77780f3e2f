"""What Helm makes of the chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_api.catalog import builtin_catalog
from deepseek_operator.catalogs import overlaid
from deepseek_operator.config import OperatorConfig, load_config

from tests.unit.chart.rendering import (
    CHART,
    ROOT,
    Chart,
    Manifest,
    chart_file,
    helm,
    needs_helm,
    of_kind,
    only,
    pairs,
)

pytestmark = needs_helm

LONGEST = "r" * 53
NAMESPACED = {"watchNamespaces": ["team-a", "team-b"]}
PROMETHEUS = ("--api-versions", "monitoring.coreos.com/v1")


def settings_of(objects: list[Manifest], folder: Path) -> OperatorConfig:
    """The settings file as the operator reads it."""
    config = next(item for item in of_kind(objects, "ConfigMap") if "config.yaml" in item["data"])
    path = folder / "config.yaml"
    path.write_text(config["data"]["config.yaml"], "utf-8")
    return load_config(path)


def pod_of(objects: list[Manifest]) -> dict[str, Any]:
    """The operator's pod."""
    pod: dict[str, Any] = only(objects, "Deployment")["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize(
    "flags",
    [(), ("--set", "watchNamespaces={a,b}"), ("--set", "metrics.serviceMonitor.enabled=true")],
)
def test_the_chart_is_lint_clean(tmp_path: Path, flags: tuple[str, ...]) -> None:
    done = helm("lint", "--strict", str(CHART), *flags, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {"namespaces": (), "torch_image": "deepseek/worker-cuda:0.1.0"}),
    "namespaces": (NAMESPACED, {"namespaces": ("team-a", "team-b")}),
    "an image with a tag": (
        {"images": {"cpu": "host:5000/cpu:2", "cuda": "host:5000/cuda"}},
        {"images": {"cpu": "host:5000/cpu:2", "cuda": "host:5000/cuda:0.1.0"}},
    ),
    "a registry": (
        {"registry": "host:5000/team", "images": {"cuda": None}, "torchImage": "torch@sha256:ab"},
        {
            "images": {"cpu": "host:5000/team/deepseek/worker-cpu:0.1.0"},
            "torch_image": "host:5000/team/torch@sha256:ab",
        },
    ),
    "no torch": ({"registry": "host", "torchImage": ""}, {"torch_image": ""}),
    "devices": (
        {
            "defaultDevice": "npu",
            "images": {"npu": "npu:1"},
            "deviceResources": {"cuda": None, "npu": "huawei.com/Ascend910"},
        },
        {"default_device": "npu", "device_resources": {"npu": "huawei.com/Ascend910"}},
    ),
    "numbers at their limits": (
        {"drain": {"preStopS": 600, "drainS": 3600, "graceS": 7200}, "resyncS": 86400},
        {"resync_s": 86400},
    ),
    "fractions": ({"demandHoldS": 0.5, "drain": {"drainS": 0.25}}, {"demand_hold_s": 0.5}),
    "pull": (
        {"workerImagePullPolicy": "Never", "workerImagePullSecrets": ["a"]},
        {"image_pull_policy": "Never", "image_pull_secrets": ("a",)},
    ),
    "the rest": (
        {
            "allowRandomWeights": True,
            "networkPolicies": False,
            "logLevel": "debug",
            "concurrency": 1,
        },
        {
            "allow_random_weights": True,
            "network_policies": False,
            "log_level": "debug",
            "concurrency": 1,
        },
    ),
}


@pytest.mark.parametrize(("values", "expected"), SETTINGS.values(), ids=SETTINGS.keys())
def test_the_operator_reads_the_settings_file(
    chart: Chart, tmp_path: Path, values: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = settings_of(chart.render(values), tmp_path)
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_operator_reads_the_catalog(chart: Chart) -> None:
    entry = {"source": {"uri": "oci://host/bert:1"}, "memoryRequest": "2Gi"}
    objects = chart.render({"catalog": {"models": {"bert-base": entry}}})
    maps = of_kind(objects, "ConfigMap")
    (text,) = [item["data"]["catalog.yaml"] for item in maps if "catalog.yaml" in item["data"]]
    found = overlaid(builtin_catalog(), yaml.safe_load(text)["models"]).get("bert-base")
    assert (found.source.uri, found.memory_request) == ("oci://host/bert:1", "2Gi")


def test_settings_and_catalog_lie_where_the_operator_looks(chart: Chart, tmp_path: Path) -> None:
    objects = chart.render()
    pod = pod_of(objects)
    (folder,) = {
        mount["mountPath"]
        for mount in pod["containers"][0]["volumeMounts"]
        if mount["name"] == "config"
    }
    mounted = {
        source["configMap"]["name"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
    }
    maps = of_kind(objects, "ConfigMap")
    files = {f"{folder}/{file}" for item in maps for file in item["data"]}
    assert mounted == {item["metadata"]["name"] for item in maps}
    assert pod["containers"][0]["env"] == [
        {"name": "DEEPSEEK_OPERATOR_CONFIG", "value": f"{folder}/config.yaml"}
    ]
    assert files == {f"{folder}/config.yaml", settings_of(objects, tmp_path).catalog_file}


def test_ports_are_those_of_the_settings(chart: Chart, tmp_path: Path) -> None:
    objects = chart.render()
    config = settings_of(objects, tmp_path)
    ports = {
        item["name"]: item["containerPort"] for item in pod_of(objects)["containers"][0]["ports"]
    }
    assert ports == {"health": config.health_port, "metrics": config.metrics_port}


def test_only_changed_settings_restart_the_operator(chart: Chart) -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = only(chart.render(values), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"catalog": {"models": {"x": {}}}, "podLabels": {"a": "b"}})
    assert checksum({}) != checksum({"logLevel": "debug"})


def test_the_pod_meets_the_restricted_standard(chart: Chart) -> None:
    pod = pod_of(chart.render())
    (container,) = pod["containers"]
    security = pod["securityContext"] | container["securityContext"]
    assert security == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {kind for volume in pod["volumes"] for kind in volume} == {
        "name",
        "projected",
        "emptyDir",
    }
    assert {"hostNetwork", "hostPID", "hostIPC"} & pod.keys() == set()


def test_there_is_one_operator_with_limited_resources(chart: Chart) -> None:
    spec = only(chart.render(), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert spec["template"]["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"memory": "512Mi"},
    }


def test_a_cluster_wide_operator_has_one_role_for_all_namespaces(chart: Chart) -> None:
    objects = chart.render()
    nodes = {("", "nodes"): {"list"}}
    granted = dict(pairs(only(objects, "ClusterRole")["rules"]))
    assert granted == dict(pairs(chart_file("files/rules.yaml"))) | nodes
    assert of_kind(objects, "Role") == []


def test_a_namespaced_operator_has_rights_only_in_its_namespaces(chart: Chart) -> None:
    objects = chart.render(NAMESPACED)
    roles = of_kind(objects, "Role")
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    for role in roles:
        assert role["rules"] == chart_file("files/rules.yaml")
    assert of_kind(objects, "ClusterRole") + of_kind(objects, "ClusterRoleBinding") == []


@pytest.mark.parametrize("values", [{}, NAMESPACED, {"serviceAccount": {"name": "other"}}])
def test_every_role_is_bound_to_the_operators_account(chart: Chart, values: dict[str, Any]) -> None:
    objects = chart.render(values)
    account = only(objects, "ServiceAccount")["metadata"]["name"]
    assert pod_of(objects)["serviceAccountName"] == account
    bindings = of_kind(objects, "RoleBinding") + of_kind(objects, "ClusterRoleBinding")
    roles = of_kind(objects, "Role") + of_kind(objects, "ClusterRole")
    bound = [
        (item["roleRef"]["name"], item["metadata"].get("namespace"), subject)
        for item in bindings
        for subject in item["subjects"]
    ]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": "deepseek-system"}
    assert bound == [
        (role["metadata"]["name"], role["metadata"].get("namespace"), subject) for role in roles
    ]


def test_rights_can_be_left_to_an_administrator(chart: Chart) -> None:
    kinds = {item["kind"] for item in chart.render({"rbac": {"create": False}})}
    assert {kind for kind in kinds if "Role" in kind} == set()


def test_the_definition_is_the_generated_one_and_is_kept(chart: Chart) -> None:
    found = only(chart.render(), "CustomResourceDefinition")
    generated = yaml.safe_load((ROOT / "crds" / "deepseek.ai_modelpipelines.yaml").read_text())
    assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    found["metadata"].pop("labels")
    assert found == generated


def test_the_definition_can_be_left_out(chart: Chart) -> None:
    objects = chart.render({"crds": {"enabled": False}})
    assert of_kind(objects, "CustomResourceDefinition") == []


def test_a_service_monitor_needs_the_kind_and_the_service(chart: Chart) -> None:
    wanted = {"metrics": {"serviceMonitor": {"enabled": True}}}
    assert of_kind(chart.render(wanted), "ServiceMonitor") == []
    assert of_kind(chart.render({}, *PROMETHEUS), "ServiceMonitor") == []
    objects = chart.render(wanted, *PROMETHEUS)
    labels = only(objects, "Service")["metadata"]["labels"]
    selected = only(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert selected.items() <= labels.items()


def test_selectors_find_the_operators_pod(chart: Chart) -> None:
    objects = chart.render({"podLabels": {"team": "x"}})
    labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        only(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        only(objects, "Service")["spec"]["selector"],
        only(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


def test_no_object_looks_like_a_pipelines_child(chart: Chart) -> None:
    for item in chart.render():
        managed = item["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by")
        assert managed in {None, "Helm"}, item["kind"]


@pytest.mark.parametrize("values", [{}, NAMESPACED])
def test_the_longest_release_name_makes_valid_names(chart: Chart, values: dict[str, Any]) -> None:
    for item in chart.render(values, *PROMETHEUS, release=LONGEST):
        limit = 253 if "Cluster" in item["kind"] or "Custom" in item["kind"] else 63
        assert len(item["metadata"]["name"]) <= limit


@pytest.mark.parametrize(
    ("release", "name"), [("deepseek", "deepseek-operator"), ("my-operator", "my-operator")]
)
def test_the_operator_is_named_after_the_release(chart: Chart, release: str, name: str) -> None:
    assert only(chart.render(release=release), "Deployment")["metadata"]["name"] == name


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown name": ({"nameSpaces": []}, "additional properties 'nameSpaces' not allowed"),
    "level": ({"logLevel": "loud"}, "at '/logLevel': value must be one of 'debug', 'info'"),
    "removed": ({"resyncS": None}, "missing property 'resyncS'"),
    "grace": ({"drain": {"graceS": 20}}, "drain.graceS is 20 but must be at least"),
    "no image": ({"defaultDevice": "rocm"}, "no worker image for it: set images.rocm."),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_values_are_refused_with_their_place(
    chart: Chart, values: dict[str, Any], message: str
) -> None:
    assert message in chart.refusal(values)


def test_a_cluster_without_image_volumes_is_refused(chart: Chart) -> None:
    done = chart.template({}, "--kube-version", "1.34.9")
    assert "requires kubeVersion: >=1.35.0-0" in done.stderr
    assert chart.template({}, "--kube-version", "1.35.2-vendor.1").returncode == 0
