"""What the cluster changes on this machine outside its own folder, and how it is put back.

Why it exists: bridge, kernel settings, cgroups and packet rules belong to the whole machine. What
they were is written down before the first change, so that ``down`` restores exactly that, also
after a crash. Processes and mounts are the business of ``teardown``.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from deepseek_api.errors import DeepseekError

from deploy.cluster.firewall import cluster_chains, without_chains
from deploy.cluster.layout import NETWORK, Layout

__all__ = [
    "FIREWALLS",
    "SHARED_FOLDERS",
    "Before",
    "create_bridge",
    "create_cgroups",
    "links",
    "read_before",
    "remove_links",
    "restore_rules",
    "restore_settings",
    "rules",
    "run",
    "search_path",
    "set_kernel",
    "take_note",
]

FIREWALLS = ("iptables", "ip6tables")

SHARED_FOLDERS = (
    "/run/containerd/s",
    "/run/containerd/fifo",
    "/run/containerd",
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
    "/var/log/containers",
)
"""Folders with fixed names that the kubelet, containerd and CNI create, the deepest first."""

_SETTINGS = {"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1"}
_TOUCHED = (
    *_SETTINGS,
    "net.ipv4.conf.all.route_localnet",
    "kernel.panic",
    "kernel.panic_on_oops",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
)
_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")


@dataclass(frozen=True, slots=True)
class Before:
    """The machine before the cluster was started."""

    settings: dict[str, str]
    """Kernel settings by name, as ``sysctl`` names them."""
    chains: list[str]
    """Chains of Kubernetes or CNI that somebody else made."""
    folders: list[str]
    """Shared folders that existed."""


def run(command: Sequence[str], *, stdin: str | None = None) -> str:
    """Run a program and return its output.

    Raises:
        DeepseekError: it is missing or failed; the message has its error output.
    """
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            input=stdin,
            env=os.environ | {"PATH": search_path()},
        )
    except FileNotFoundError:
        raise DeepseekError(f"There is no program '{command[0]}'.") from None
    if done.returncode != 0:
        raise DeepseekError(
            f"'{' '.join(command)}' failed: {(done.stderr or done.stdout).strip()}",
            reason="CommandFailed",
        )
    return done.stdout


def search_path() -> str:
    """PATH with the folders of system programs, which not every root shell has."""
    return os.pathsep.join([os.environ.get("PATH", "/usr/bin:/bin"), "/usr/sbin", "/sbin"])


def take_note(layout: Layout) -> None:
    """Write down what the machine is like, before anything is changed."""
    settings = {name: _setting(name) for name in _TOUCHED}
    before = Before(
        settings={name: value for name, value in settings.items() if value is not None},
        chains=sorted(set().union(*(cluster_chains(rules(kind)) for kind in FIREWALLS))),
        folders=[name for name in SHARED_FOLDERS if Path(name).exists()],
    )
    layout.home.mkdir(parents=True, exist_ok=True)
    layout.before_file.write_text(json.dumps(asdict(before), indent=1))


def read_before(layout: Layout) -> Before | None:
    """What `take_note` wrote, or None when the machine was never changed."""
    try:
        return Before(**json.loads(layout.before_file.read_text()))
    except FileNotFoundError:
        return None


def rules(firewall: str) -> str:
    """All packet rules, or an empty text where this kind of firewall does not exist."""
    try:
        return run([f"{firewall}-save"])
    except DeepseekError:
        return ""


def restore_rules(keep: Sequence[str]) -> None:
    """Take the cluster's chains and rules out of both firewalls, in one step each."""
    for firewall in FIREWALLS:
        dump = rules(firewall)
        if cluster_chains(dump) - set(keep):
            run([f"{firewall}-restore"], stdin=without_chains(dump, keep))


def set_kernel() -> None:
    """Turn on forwarding, and packet rules for what crosses the bridge.

    Raises:
        DeepseekError: the kernel refuses.
    """
    if _setting("net.bridge.bridge-nf-call-iptables") is None:
        run(["modprobe", "br_netfilter"])
    for name, value in _SETTINGS.items():
        if _setting(name) != value:
            _path_of(name).write_text(value)


def restore_settings(settings: dict[str, str]) -> None:
    """Write kernel settings back that are different now."""
    for name, value in settings.items():
        if _setting(name) not in (value, None):
            _path_of(name).write_text(value)


def create_bridge() -> None:
    """Create the pods' bridge with the node's address, and lead Service addresses to it.

    Without the route a machine that has no default route could not reach a Service.
    """
    bridge = NETWORK.bridge
    run(["ip", "link", "add", bridge, "type", "bridge"])
    run(["ip", "addr", "add", f"{NETWORK.node_ip}/{NETWORK.pod_prefix}", "dev", bridge])
    run(["ip", "link", "set", bridge, "up"])
    run(["ip", "route", "add", NETWORK.service_cidr, "dev", bridge])


def links() -> list[str]:
    """The bridge and everything attached to it; the bridge comes last."""
    bridge = Path("/sys/class/net") / NETWORK.bridge
    if not bridge.exists():
        return []
    return [*sorted(port.name for port in (bridge / "brif").glob("*")), NETWORK.bridge]


def remove_links() -> None:
    """Remove the bridge and what is attached to it."""
    for name in links():
        # A pod's end may vanish together with its namespace; `leftovers` has the last word.
        with suppress(DeepseekError):
            run(["ip", "link", "delete", name])


def create_cgroups() -> None:
    """Create the pods' cgroup in every hierarchy of this machine."""
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.controllers").exists():
        present = (base / "cgroup.controllers").read_text().split()
        for controller in (name for name in _CONTROLLERS if name in present):
            (base / "cgroup.subtree_control").write_text(f"+{controller}")
        (base / NETWORK.cgroup).mkdir(exist_ok=True)
        return
    for hierarchy in base.iterdir():
        if hierarchy.is_dir() and (hierarchy / "cgroup.procs").exists():
            (hierarchy / NETWORK.cgroup).mkdir(exist_ok=True)


def _path_of(setting: str) -> Path:
    return Path("/proc/sys") / setting.replace(".", os.sep)


def _setting(name: str) -> str | None:
    try:
        return _path_of(name).read_text().strip()
    except OSError:
        return None
