"""What the one-node cluster needs from the machine, checked before anything is changed.

Why it exists: one run names everything that is missing and the command that installs it, instead of
one failure after the other.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from deepseek_api.errors import ConfigurationError

from deploy.cluster.firewall import cluster_chains
from deploy.cluster.host import FIREWALLS, links, rules, search_path
from deploy.cluster.layout import NETWORK, PORTS

__all__ = [
    "check_machine",
    "check_place",
    "check_root",
    "cni_plugins",
    "complaint",
    "go_version",
    "ports_in_use",
]

_PROGRAMS = {
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
    "openssl": "openssl",
}
"""Programs by the Debian package that has them."""

_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
_PLUGIN_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
_GO = (1, 26)


def cni_plugins() -> Path | None:
    """The folder with the CNI plugins, or None."""
    for folder in _PLUGIN_FOLDERS:
        if all((folder / name).exists() for name in _PLUGINS):
            return folder
    return None


def go_version(text: str) -> tuple[int, int] | None:
    """Major and minor of what ``go version`` prints."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def check_machine(*, building: bool) -> None:
    """Check programs, plugins and rights.

    Args:
        building: binaries are missing, so a Go compiler is needed.

    Raises:
        ConfigurationError: names everything that is missing.
    """
    missing = {
        name: package
        for name, package in _PROGRAMS.items()
        if not shutil.which(name, path=search_path())
    }
    if cni_plugins() is None:
        missing["the CNI plugins " + ", ".join(_PLUGINS)] = "containernetworking-plugins"
    wrong = complaint(
        missing,
        root=os.geteuid() == 0,
        go=_installed_go() if building else _GO,
    )
    if wrong is not None:
        raise wrong


def check_root() -> None:
    """Check the rights that removing a cluster takes.

    Raises:
        ConfigurationError: this process does not have them.
    """
    wrong = complaint({}, root=os.geteuid() == 0, go=_GO)
    if wrong is not None:
        raise wrong


def complaint(
    missing: Mapping[str, str], *, root: bool, go: tuple[int, int] | None
) -> ConfigurationError | None:
    """The one error that lists everything, or None when nothing is missing.

    Args:
        missing: what is absent, with the Debian package that has it.
        root: whether this process has the rights of root.
        go: the version of Go, None when there is none.
    """
    lacks, hints = list(missing), []
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        hints.append(f"Install them with 'apt-get install --no-install-recommends {packages}'.")
    if go is None or go < _GO:
        version = ".".join(map(str, _GO))
        lacks.append(f"Go {version} or newer" + (f" (found {go[0]}.{go[1]})" if go else ""))
        hints.append("Install Go as https://go.dev/doc/install says.")
    if not root:
        lacks.append("the rights of root")
        hints.append("Run it as root, or start a Docker daemon: then kind is used instead.")
    if not lacks:
        return None
    return ConfigurationError(
        f"A one-node cluster on this machine needs: {', '.join(lacks)}.",
        hint=" ".join(hints),
        reason="PrerequisitesMissing",
    )


def check_place() -> None:
    """Check that nobody else uses the ports, the bridge or the chains of the cluster.

    Raises:
        ConfigurationError: somebody does.
    """
    taken = ports_in_use(PORTS)
    if taken:
        raise ConfigurationError(
            f"Ports that the cluster needs are in use: {', '.join(taken)}.",
            hint="Stop what listens there ('ss -ltnp' shows it), then try again.",
            reason="PortInUse",
        )
    if links():
        raise ConfigurationError(
            f"A network link named {NETWORK.bridge} exists already.",
            hint=f"Remove it with 'ip link delete {NETWORK.bridge}' if nobody needs it.",
            reason="LinkInUse",
        )
    foreign = [c for kind in FIREWALLS for c in cluster_chains(rules(kind)) if c[:4] == "KUBE"]
    if foreign:
        raise ConfigurationError(
            "Another Kubernetes node runs on this machine, or left its packet rules behind "
            f"(chain {sorted(foreign)[0]}).",
            hint="Use that cluster through KUBECONFIG, or remove it first.",
            reason="OtherClusterPresent",
        )


def ports_in_use(ports: Mapping[str, int]) -> list[str]:
    """Ports that somebody listens on, as ``name: number``."""
    return [f"{name}: {port}" for name, port in ports.items() if not _is_free(port)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _installed_go() -> tuple[int, int] | None:
    if shutil.which("go") is None:
        return None
    return go_version(_output(["go", "version"]))


def _output(command: Iterable[str]) -> str:
    return subprocess.run(list(command), check=False, capture_output=True, text=True).stdout
