"""Take the cluster away, whatever state it is in, and say what is left.

Why it exists: a crash may leave any part behind, so nothing here trusts a process id or an order of
events. Everything is found by its own mark: processes by environment or cgroup, mounts by folder,
links by bridge, rules by chain. Running it twice, or on a machine without a cluster, does no harm.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path

from deepseek_api.errors import DeepseekError

from deploy.cluster import host
from deploy.cluster.firewall import cluster_chains
from deploy.cluster.layout import NETWORK, Layout
from deploy.cluster.processes import (
    cgroup_folders,
    command_of,
    end_all,
    is_alive,
    is_member,
    member_pids,
    pod_pids,
    read_number,
    wait_for,
)

__all__ = ["leftovers", "mounts_below", "teardown"]

_END_S = 20.0
_UNMOUNT_S = 10.0


def teardown(layout: Layout) -> None:
    """Remove everything of the cluster from this machine.

    Raises:
        DeepseekError: something could not be removed; the message names it.
    """
    _end_supervisor(layout)
    end_all(lambda: member_pids(layout.home) + pod_pids(), timeout_s=_END_S)
    wait_for(lambda: not _unmount_all(layout.home), timeout_s=_UNMOUNT_S)
    host.remove_links()
    before = host.read_before(layout)
    if before is not None:
        host.restore_rules(before.chains)
        host.restore_settings(before.settings)
    wait_for(lambda: not _remove_cgroups(), timeout_s=_UNMOUNT_S)
    left = leftovers(layout, folders=False)
    if left:
        raise DeepseekError(
            "The cluster could not be removed completely. Left: " + "; ".join(left) + ".",
            hint="Remove it by hand, or run 'down' again.",
            reason="LeftoversRemain",
        )
    # The note about the machine goes last: until here a second run can continue.
    if before is not None:
        _remove_shared(layout.home, before.folders)
    shutil.rmtree(layout.home, ignore_errors=True)
    if layout.home.exists():
        raise DeepseekError(f"The folder {layout.home} could not be removed.")


def _end_supervisor(layout: Layout) -> None:
    """Let the supervisor end what it started: then nobody has to collect its children."""
    pid = read_number(layout.supervisor_pid)
    if pid is not None and is_member(pid, layout.home):
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not is_alive(pid), timeout_s=_END_S)


def leftovers(layout: Layout, *, folders: bool = True) -> list[str]:
    """What of the cluster is still on this machine, one phrase each.

    Args:
        layout: the cluster.
        folders: also name folders.
    """
    before = host.read_before(layout)
    kept = set(before.chains) if before else set()
    chains = {chain for kind in host.FIREWALLS for chain in cluster_chains(host.rules(kind))}
    found = [f"process {pid} ({command_of(pid)[:80]})" for pid in member_pids(layout.home)]
    found += [f"process {pid} of a pod ({command_of(pid)[:80]})" for pid in pod_pids()]
    found += [f"mount {path}" for path in mounts_below(layout.home)]
    found += [f"link {name}" for name in host.links()]
    found += [f"iptables chain {chain}" for chain in sorted(chains - kept)]
    found += [f"cgroup {path}" for path in cgroup_folders()]
    if folders and layout.home.exists():
        found.append(f"folder {layout.home}")
    return found


def mounts_below(folder: Path) -> list[Path]:
    """Mount points below a folder, the innermost first; network namespaces are mounts, too."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    # The kernel writes spaces and backslashes in octal.
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    return [point for point in reversed(points) if folder in point.parents]


def _unmount_all(home: Path) -> list[Path]:
    for point in mounts_below(home):
        with suppress(DeepseekError):
            host.run(["umount", str(point)])
    return mounts_below(home)


def _remove_cgroups() -> list[Path]:
    for folder in cgroup_folders():
        try:
            folder.rmdir()
        except OSError:
            # The kernel lets go of an emptied cgroup a moment later.
            continue
    return cgroup_folders()


def _remove_shared(home: Path, existed: list[str]) -> None:
    """Take the cluster's files out of folders that it shares; what is then empty goes, too."""
    for path in Path("/run/containerd/s").glob("*"):
        _remove_dead_socket(path)
    _remove_dead_socket(Path("/var/lib/kubelet/device-plugins/kubelet.sock"))
    for path in Path("/var/lib/cni/results").glob(f"{NETWORK.cni_name}-*"):
        path.with_name(f"cni-loopback-{path.name.split('-')[1]}-lo").unlink(missing_ok=True)
        path.unlink()
    for path in Path("/var/log/containers").glob("*.log"):
        if path.is_symlink() and home in path.readlink().parents:
            path.unlink()
    for folder in host.SHARED_FOLDERS:
        # Not empty: somebody else uses it by now.
        if folder not in existed:
            with suppress(OSError):
                Path(folder).rmdir()


def _remove_dead_socket(path: Path) -> None:
    if path.is_socket() and not _is_served(path):
        path.unlink(missing_ok=True)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            return not isinstance(error, ConnectionRefusedError)
    return True
