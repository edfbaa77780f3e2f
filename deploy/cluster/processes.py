"""Find and end the processes of the cluster, and no others.

Why it exists: whatever crashed or was half started, the cluster's processes are recognised by a
variable in their environment (components and what they start) or by the cgroup of their pod. A
process id alone is never trusted: the system reuses them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.cluster.layout import NETWORK

__all__ = [
    "MEMBER_VARIABLE",
    "cgroup_folders",
    "command_of",
    "end_all",
    "is_alive",
    "is_member",
    "kill",
    "member_pids",
    "pod_pids",
    "read_number",
    "wait_for",
]

MEMBER_VARIABLE = "DEEPSEEK_CLUSTER_MEMBER"
"""Set to the cluster's home in the environment of everything that the supervisor starts."""

_CGROUPS = Path("/sys/fs/cgroup")
_POLL_S = 0.05


def wait_for(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Poll until the condition holds; False when it did not within the time."""
    limit = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(_POLL_S)
    return True


def read_number(file: Path) -> int | None:
    """The number in a file, such as a process id, or None where there is none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def is_alive(pid: int) -> bool:
    """Whether a process still holds anything; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return False
    # The first thread may end before the others, which then still have all files open.
    return state not in "ZX" or threads > 1


def is_member(pid: int, home: Path) -> bool:
    """Whether a living process belongs to the cluster with this home."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"{MEMBER_VARIABLE}={home}".encode() in environment and is_alive(pid)


def member_pids(home: Path) -> list[int]:
    """Every process with the cluster's mark, this one excepted."""
    return [pid for pid in _all_pids() if pid != os.getpid() and is_member(pid, home)]


def pod_pids() -> list[int]:
    """Every process in a pod's cgroup."""
    pids: set[int] = set()
    for folder in cgroup_folders():
        try:
            pids.update(int(line) for line in (folder / "cgroup.procs").read_text().split())
        except OSError:
            continue
    return sorted(pids)


def cgroup_folders() -> list[Path]:
    """The cluster's cgroups of all hierarchies, the deepest first."""
    roots = [_CGROUPS, *(path for path in _subfolders(_CGROUPS) if path.is_dir())]
    found = [root / NETWORK.cgroup for root in roots if (root / NETWORK.cgroup).is_dir()]
    below = [Path(top) for root in found for top, _, _ in os.walk(root)]
    return sorted(set(below), key=lambda path: len(path.parts), reverse=True)


def command_of(pid: int) -> str:
    """The program and arguments of a process, or an empty text when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def end_all(find: Callable[[], list[int]], *, timeout_s: float) -> list[int]:
    """Kill what `find` gives until it gives nothing more and all of it has ended.

    Returns:
        What could not be ended within the time.
    """
    # A process on its way out has lost its marks, and still has its sockets and mounts.
    seen: set[int] = set()

    def none_left() -> bool:
        pids = find()
        seen.update(pids)
        for pid in pids:
            kill(pid)
        return not any(is_alive(pid) for pid in seen)

    wait_for(none_left, timeout_s=timeout_s)
    return [pid for pid in seen if is_alive(pid)]


def kill(pid: int) -> None:
    """Kill a process; it may have ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _all_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _subfolders(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
