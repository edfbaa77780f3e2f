"""The chart for some namespaces only: few rights, and eyes for nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import manifest
from tests.e2e.operator_release import NAMESPACE, Release
from tests.support.cluster import Kube, Space
from tests.support.cluster_images import Bundle

OTHER = "e2e-namespaced-other"
MINE = "app.kubernetes.io/part-of=deepseek"


@pytest.fixture
def other(kube: Kube) -> Iterator[Space]:
    """A namespace that the operator is not told of."""
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OTHER}})
    yield Space(kube, OTHER)
    for item in kube.items("ModelPipeline", OTHER):
        kube.delete("ModelPipeline", item["metadata"]["name"], OTHER)
    kube.delete("Namespace", OTHER)


@pytest.fixture
def namespaced(release: Release, space: Space) -> Iterator[Release]:
    """The release, upgraded to look after the module's namespace alone, and put back."""
    release.install(watchNamespaces=[space.name])
    release.wait()
    yield release
    release.install()
    release.wait()


def cluster_wide(kube: Kube) -> list[str]:
    kinds = "clusterroles,clusterrolebindings"
    return kube.kubectl("get", kinds, "--selector", MINE, "--output=name").stdout.split()


def test_a_release_for_one_namespace_serves_it_and_touches_no_other(
    kube: Kube,
    space: Space,
    other: Space,
    namespaced: Release,
    bundles: dict[str, Bundle],
) -> None:
    assert cluster_wide(kube) == []
    bound = ("get", "rolebindings", "--namespace", space.name, "--selector", MINE)
    assert kube.kubectl(*bound, "--output=name").stdout.split()
    other.apply(manifest("outside", {"m": {}}, bundles))
    space.apply(manifest("inside", {"m": {}}, bundles))
    space.wait_ready("inside")
    outside = other.get("ModelPipeline", "outside")
    assert outside
    assert "status" not in outside
    assert not other.items("Deployment")
    # With the chart for all namespaces the same pipeline is served.
    namespaced.install()
    namespaced.wait()
    other.wait_ready("outside")
    assert cluster_wide(kube)


def test_its_operator_may_read_nothing_elsewhere(
    kube: Kube, space: Space, namespaced: Release
) -> None:
    account = namespaced.pods()[0]["spec"]["serviceAccountName"]
    user = f"system:serviceaccount:{NAMESPACE}:{account}"

    def may(verb: str, what: str, namespace: str) -> bool:
        asked = ("auth", "can-i", verb, what, "--as", user, "--namespace", namespace)
        # can-i ends with 1 when the answer is no.
        return kube.kubectl(*asked, check=False).stdout.strip() == "yes"

    assert may("patch", "deployments.apps", space.name)
    assert not may("list", "pods", "default")
    assert not may("get", "secrets", space.name)
