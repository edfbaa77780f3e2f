"""The same cluster where a Docker daemon answers: kind.

Why it exists: who has Docker needs neither root nor a compiler for a control plane. The cluster has
the same minor version and a metrics API, so that the same tests run on it. Single components cannot
be stopped there (``control``).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from deepseek_api.errors import ConfigurationError, DeepseekError

from deploy.cluster import manifests
from deploy.cluster.binaries import binary
from deploy.cluster.components import ClusterOptions, option_flags
from deploy.cluster.layout import cache_dir
from deploy.cluster.oci import File, write_image
from deploy.cluster.versions import KIND_NODE_IMAGE, TOOLS

__all__ = [
    "cluster_config",
    "down",
    "is_preferred",
    "is_running",
    "kubeconfig_path",
    "load",
    "load_command",
    "up",
]

_NAME = "deepseek"
_CONFIG = Path(__file__).resolve().parent / "kind.yaml"
_FIELDS = {"kube-controller-manager": "controllerManager", "kube-scheduler": "scheduler"}

Say = Callable[[str], None]


def is_preferred() -> bool:
    """Whether a Docker daemon answers on this machine."""
    if shutil.which("docker") is None:
        return False
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode == 0 and bool(done.stdout.strip())


def is_running() -> bool:
    """Whether the cluster exists."""
    return shutil.which("kind") is not None and _NAME in _run(["kind", "get", "clusters"]).split()


def kubeconfig_path() -> Path:
    """The kubeconfig of the cluster, apart from the user's own."""
    return cache_dir() / "kind.kubeconfig"


def up(options: ClusterOptions, *, say: Say) -> None:
    """Create the cluster with a metrics API; nothing to do when it runs.

    Raises:
        ConfigurationError: kind, kubectl or Go is missing.
        DeepseekError: a step failed; the cluster was removed again.
    """
    _need("kind", "kubectl")
    if is_running():
        say("The cluster runs already.")
        return
    kubeconfig_path().parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            config = Path(scratch) / "kind.yaml"
            config.write_text(cluster_config(_CONFIG.read_text(), options))
            _create(config)
            say("The node is ready")
            _add_metrics(Path(scratch))
    except BaseException:
        _run(["kind", "delete", "cluster", "--name", _NAME])
        raise
    say("The cluster is ready.")


def down(*, say: Say) -> None:
    """Delete the cluster."""
    if not is_running():
        say("There is no cluster on this machine.")
        return
    _run(["kind", "delete", "cluster", "--name", _NAME])
    kubeconfig_path().unlink(missing_ok=True)
    say("The cluster is gone.")


def load(sources: Sequence[str], *, say: Say) -> None:
    """Import archives or images of docker into the node.

    Raises:
        DeepseekError: kind cannot import one.
    """
    for source in sources:
        _run(load_command(source, is_file=Path(source).is_file()))
        say(f"Loaded {source}")


def load_command(source: str, *, is_file: bool) -> list[str]:
    """The command that imports one image."""
    return ["kind", "load", "image-archive" if is_file else "docker-image", source, "--name", _NAME]


def cluster_config(text: str, options: ClusterOptions) -> str:
    """The configuration with the chosen options as a patch for kubeadm.

    Args:
        text: the committed configuration.
        options: what was chosen.
    """
    document: dict[str, Any] = yaml.safe_load(text)
    patch: dict[str, Any] = {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
    }
    for component, flags in option_flags(options).items():
        arguments = [{"name": name, "value": value} for name, value in flags.items()]
        patch[_FIELDS[component]] = {"extraArgs": arguments}
    document["kubeadmConfigPatches"] = [yaml.safe_dump(patch, sort_keys=False)]
    return yaml.safe_dump(document, sort_keys=False)


def _create(config: Path) -> None:
    command = ["kind", "create", "cluster", "--name", _NAME, "--image", KIND_NODE_IMAGE]
    command += ["--config", str(config), "--kubeconfig", str(kubeconfig_path()), "--wait", "120s"]
    _run(command)


def _add_metrics(scratch: Path) -> None:
    image = f"localhost/metrics-server:{TOOLS['metrics-server'].version}"
    archive = scratch / "metrics-server.tar"
    program = File(binary("metrics-server").read_bytes(), 0o755)
    write_image(
        archive,
        reference=image,
        files={"metrics-server": program},
        entrypoint=["/metrics-server"],
    )
    _run(load_command(str(archive), is_file=True))
    objects = manifests.metrics_in_cluster(image)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    kubectl = ["kubectl", f"--kubeconfig={kubeconfig_path()}"]
    _run([*kubectl, "apply", "--server-side", "-f", "-"], stdin=text)
    waiting = ["wait", "--for=condition=Available", "--timeout=120s"]
    _run([*kubectl, *waiting, "apiservice/v1beta1.metrics.k8s.io"])


def _need(*programs: str) -> None:
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise ConfigurationError(
            f"A Docker daemon answers, and {' and '.join(missing)} cannot be found in PATH.",
            hint="Install kind 0.33 or newer (https://kind.sigs.k8s.io) and kubectl.",
            reason="PrerequisitesMissing",
        )


def _run(command: Sequence[str], *, stdin: str | None = None) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=stdin)
    if done.returncode != 0:
        raise DeepseekError(
            f"'{' '.join(command)}' failed: {done.stderr.strip()}", reason="CommandFailed"
        )
    return done.stdout
