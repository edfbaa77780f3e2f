"""What the cluster is built from: tools, their Go packages and the binaries they give.

Why it exists: the version of a tool is pinned once, in ``tools/<tool>/go.mod``; everything that
needs it (names of folders, version strings linked into binaries) reads it from there. Add a tool
by adding a folder and an entry of ``TOOLS``. Do not build or start anything here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from deepseek_api.errors import ConfigurationError

__all__ = ["KIND_NODE_IMAGE", "TOOLS", "Tool", "pinned_version"]

_TOOLS_DIR = Path(__file__).resolve().parent / "tools"

KIND_NODE_IMAGE = (
    "kindest/node:v1.36.4@sha256:099e049362a1526b2db71494e1947aae99bd16290d7c895f2b7ea312e3cbfaed"
)
"""The node image where kind is used, by digest, of kind v0.33.0's release notes: the same minor
version of Kubernetes as the one that is built here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One Go module and the binaries that are built from it."""

    name: str
    """The name of its folder under ``tools``."""
    module: str
    """The Go module whose version counts."""
    packages: dict[str, str] = field(hash=False)
    """Binary name to Go package."""
    ldflags: tuple[str, ...] = ()
    """Linker variables as ``path=value``; ``{version}``, ``{major}`` and ``{minor}`` are filled."""
    tags: tuple[str, ...] = ()
    """Go build tags."""

    @property
    def folder(self) -> Path:
        """The folder with ``go.mod`` and ``go.sum``."""
        return _TOOLS_DIR / self.name

    @property
    def version(self) -> str:
        """The pinned version, for example ``v1.36.3``."""
        return pinned_version((self.folder / "go.mod").read_text(), self.module)

    def linker_flags(self) -> str:
        """The value of ``-ldflags``; without versions many clients refuse to talk to each other."""
        version = self.version.removeprefix("v")
        major, minor, *_ = version.split(".")
        filled = (flag.format(version=version, major=major, minor=minor) for flag in self.ldflags)
        return " ".join(["-s -w", *(f"-X {flag}" for flag in filled)])


def pinned_version(go_mod: str, module: str) -> str:
    """The version of a module that a ``go.mod`` requires.

    Raises:
        ConfigurationError: the module is not required there.
    """
    found = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise ConfigurationError(
            f"The go.mod does not require {module}.", hint="Add it with 'go get'."
        )
    return found[1]


_K8S = "k8s.io/kubernetes"
_CONTAINERD = "github.com/containerd/containerd/v2"
_K8S_BINARIES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)

TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            name="kubernetes",
            module=_K8S,
            packages={name: f"{_K8S}/cmd/{name}" for name in _K8S_BINARIES},
            ldflags=(
                "k8s.io/component-base/version.gitVersion=v{version}",
                "k8s.io/component-base/version.gitMajor={major}",
                "k8s.io/component-base/version.gitMinor={minor}",
            ),
        ),
        Tool(
            name="etcd",
            module="go.etcd.io/etcd/server/v3",
            packages={"etcd": "go.etcd.io/etcd/server/v3"},
        ),
        Tool(
            name="containerd",
            module=_CONTAINERD,
            packages={
                name: f"{_CONTAINERD}/cmd/{name}"
                for name in ("containerd", "containerd-shim-runc-v2", "ctr")
            },
            ldflags=(f"{_CONTAINERD}/version.Version={{version}}",),
            tags=("no_btrfs", "no_zfs", "no_devmapper"),
        ),
        Tool(
            name="coredns",
            module="github.com/coredns/coredns",
            packages={"coredns": "github.com/coredns/coredns"},
        ),
        Tool(
            name="metrics-server",
            module="sigs.k8s.io/metrics-server",
            packages={"metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server"},
        ),
        Tool(name="helm", module="helm.sh/helm/v4", packages={"helm": "helm.sh/helm/v4/cmd/helm"}),
        Tool(
            name="kwok", module="sigs.k8s.io/kwok", packages={"kwok": "sigs.k8s.io/kwok/cmd/kwok"}
        ),
    )
}
"""The tools by name, in the order in which they are built."""
