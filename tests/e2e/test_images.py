"""The project's images as a container runtime has them: their sizes, and one run by itself."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deepseek import Client, EngineUnavailableError

from deploy.cluster.binaries import binary
from deploy.cluster.layout import Layout
from deploy.images.__main__ import local_name
from tests.e2e.operator_release import Release
from tests.support.apiserver import free_port
from tests.support.bundles import write_echo
from tests.support.cluster import Kube, eventually
from tests.support.cluster_probe import answers

MEGABYTE = 1_000_000


@pytest.mark.parametrize(("image", "most"), [("operator", 150), ("worker-cpu", 250)])
@pytest.mark.usefixtures("release")
def test_an_image_is_small(kube: Kube, image: str, most: int) -> None:
    [node, *_] = kube.items("Node")
    sizes = {
        name: entry["sizeBytes"]
        for entry in node["status"]["images"]
        for name in entry.get("names") or ()
    }
    assert sizes[local_name(image)] < most * MEGABYTE


@contextmanager
def container(*options: str, command: list[str]) -> Iterator[None]:
    """The CPU worker's image under the cluster's containerd, without Kubernetes."""
    layout, name = Layout.default(), f"e2e-{uuid.uuid4().hex[:8]}"
    ctr = [str(binary("ctr")), f"--address={layout.socket}", "--namespace=k8s.io"]
    run = [*ctr, "run", "--rm", "--net-host", "--read-only", *options]
    process = subprocess.Popen([*run, local_name("worker-cpu"), name, *command])
    try:
        yield
    finally:
        subprocess.run([*ctr, "tasks", "kill", "--signal", "SIGTERM", name], check=False)
        assert process.wait(60) == 0


def test_a_worker_image_with_a_mounted_bundle_serves(tmp_path: Path, release: Release) -> None:
    if not Layout.default().socket.exists():
        pytest.skip("kind's node is not reached from here [kind]")
    assert release.name
    write_echo(tmp_path / "echo")
    tmp_path.chmod(0o755)
    grpc, http = free_port(), free_port()
    mounts = [
        f"--mount=type=bind,src={tmp_path}/echo,dst=/models/echo,options=rbind:ro",
        "--mount=type=tmpfs,dst=/tmp,options=size=64m",
    ]
    command = ["python", "-m", "deepseek_worker", "--models", "/models"]
    command += ["--host", "127.0.0.1", "--grpc-port", str(grpc), "--http-port", str(http)]
    with container(*mounts, command=command):
        eventually(lambda: answers(f"127.0.0.1:{grpc}", "echo"), timeout_s=60)
    with Client(f"127.0.0.1:{grpc}") as client, pytest.raises(EngineUnavailableError):
        client.metadata("echo", timeout=5)
