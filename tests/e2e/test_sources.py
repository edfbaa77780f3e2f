"""Bundles that do not come as images: from a volume, and prepared in the cluster.

The second needs the image with torch (6 GB), so it runs by hand: ``make images
NAMES=worker-cuda``, then ``DEEPSEEK_E2E_TORCH_IMAGE=1 make e2e ARGS="-k prepared_in_the_cluster"``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.cluster.layout import Layout
from deploy.images.__main__ import local_name
from tests.support.bundles import digest_of, write_echo
from tests.support.cluster import Space, Wire, eventually
from tests.support.cluster_images import load_images
from tests.support.cluster_probe import answers, reach

CLAIM = "bundles"


@pytest.fixture
def claim(space: Space, tmp_path: Path) -> Iterator[str]:
    """A claim bound to a volume of this machine's folder, with the bundle ``models/echo`` in it."""
    if not Layout.default().socket.exists():
        pytest.skip("kind's node does not see this machine's folders [kind]")
    (tmp_path / "models").mkdir()
    digest = digest_of(write_echo(tmp_path / "models" / "echo"))
    tmp_path.chmod(0o755)
    size, modes = {"storage": "1Mi"}, ["ReadOnlyMany"]
    volume: Wire = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{space.name}-{CLAIM}"},
        "spec": {
            "capacity": size,
            "accessModes": modes,
            "storageClassName": "",
            "hostPath": {"path": str(tmp_path), "type": "Directory"},
            "claimRef": {"namespace": space.name, "name": CLAIM},
        },
    }
    wanted: Wire = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": modes, "storageClassName": "", "resources": {"requests": size}},
    }
    space.kube.apply(volume)
    space.apply(wanted)
    yield digest
    space.remove_pipelines()
    space.delete("PersistentVolumeClaim", CLAIM)
    space.kube.delete("PersistentVolume", f"{space.name}-{CLAIM}")


def test_a_bundle_on_a_volume_is_served(
    space: Space, pipeline: Callable[..., Wire], claim: str
) -> None:
    source = {"uri": f"pvc://{CLAIM}/models/echo", "digest": claim}
    pipeline("stored", {"echo": {"source": source}})
    space.wait_ready("stored")
    with reach(space, "stored-echo") as target:
        eventually(lambda: answers(target, "echo"), timeout_s=20)


@pytest.mark.skipif(
    os.environ.get("DEEPSEEK_E2E_TORCH_IMAGE") != "1",
    reason="needs the image with torch: DEEPSEEK_E2E_TORCH_IMAGE=1 [by hand]",
)
def test_a_raw_source_is_prepared_in_the_cluster(
    space: Space, pipeline: Callable[..., Wire]
) -> None:
    load_images([local_name("worker-cuda")])
    source = {"uri": "random://resnet50?seed=1"}
    pipeline("raw", {"resnet50": {"type": "CV", "source": source, "precision": "fp32"}})
    space.wait_ready("raw", timeout_s=390)
    [model] = space.status("raw")["models"]
    assert model["randomWeights"] is True
