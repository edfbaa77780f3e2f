"""From a bare cluster to the first answer, and back with the documented command."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.operator_release import NAMESPACE, Release
from tests.support.cluster import ROOT, Kube, Space, eventually, program
from tests.support.cluster_probe import answers, reach

SEED = ROOT / "examples" / "nlp-vision-joint.yaml"
NAME = "nlp-vision-joint"
OURS = "app.kubernetes.io/part-of=deepseek"
EVERYWHERE = (
    "deployments,replicasets,pods,services,configmaps,serviceaccounts,networkpolicies,"
    "horizontalpodautoscalers,poddisruptionbudgets,roles,rolebindings,clusterroles,"
    "clusterrolebindings"
)


def documented() -> str:
    """The command under "Remove everything", for the names of this release."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    found = re.search(r"## Remove everything\n.*?```\n(.*?)```", page, re.DOTALL)
    assert found, "the page has no such command"
    return found[1].replace("deepseek-system", NAMESPACE)


def run_documented(kube: Kube, home: Path) -> None:
    """As a person at a shell with this cluster's settings; the tools keep caches at home."""
    tools = {str(Path(program(name)).parent) for name in ("helm", "kubectl")}
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", documented()],
        env={
            "PATH": ":".join([*tools, "/usr/bin", "/bin"]),
            "KUBECONFIG": str(kube.kubeconfig),
            "HOME": str(home),
        },
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def left(kube: Kube) -> list[str]:
    """What of ours is in the cluster."""
    found = kube.kubectl("get", EVERYWHERE, "-A", "-l", OURS, "-o", "name").stdout.split()
    crds = kube.kubectl("get", "crd", "-o", "name").stdout.split()
    return found + [name for name in crds if name.endswith(".deepseek.ai")]


@pytest.mark.usefixtures("release")
def test_one_install_and_one_apply_serve_and_one_command_removes_everything(
    bare_space: Space, release: Release, figures: Callable[[str], None], tmp_path: Path
) -> None:
    kube = bare_space.kube
    try:
        release.remove()
        kube.delete("Namespace", NAMESPACE)
        eventually(lambda: kube.get("Namespace", NAMESPACE) is None, timeout_s=60)
        assert left(kube) == []

        started = time.monotonic()
        release.install()
        kube.kubectl("apply", "-n", bare_space.name, "-f", str(SEED))
        with reach(bare_space, f"{NAME}-bert-base") as target:
            eventually(
                lambda: answers(target, "bert-base", text="a cat"),
                timeout_s=180,
                what=lambda: bare_space.story(NAME),
            )
        figures(f"bare cluster to the first served answer: {time.monotonic() - started:.1f} s")
        bare_space.wait_ready(NAME)

        started = time.monotonic()
        run_documented(kube, tmp_path)
        figures(f"documented removal: {time.monotonic() - started:.1f} s")
        assert left(kube) == []
        assert kube.get("Namespace", NAMESPACE) is None
    finally:
        release.install()
