"""What the processor, its memory and the limits of this process allow.

Why it exists: a bundle holds variants for several instruction sets, and the worker must pick the
one for the processor that it is on, with as many threads and as much memory as its container may
use, not as the host has. Everything is read from ``/proc`` and ``/sys``; nothing is imported that
would start a runtime. Every function takes the root folder, so that tests can present another
machine.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from deepseek_api.errors import ConfigurationError
from deepseek_api.vocabulary import InstructionSet

__all__ = ["Cpu", "Memory", "detect_cpu", "detect_memory", "instruction_sets", "usable_threads"]

_ROOT = Path("/")

# Best first; the flags that a processor must have, as /proc/cpuinfo names them.
_X86: tuple[tuple[InstructionSet, frozenset[str]], ...] = (
    (InstructionSet.AMX_INT8, frozenset({"amx_tile", "amx_int8", "avx512_vnni"})),
    (InstructionSet.AVX512_VNNI, frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni"})),
    (InstructionSet.AVX_VNNI, frozenset({"avx2", "avx_vnni"})),
    (InstructionSet.AVX512, frozenset({"avx512f", "avx512bw", "avx512vl"})),
    (InstructionSet.AVX2, frozenset({"avx2", "fma"})),
)
_ARM: tuple[tuple[InstructionSet, frozenset[str]], ...] = (
    (InstructionSet.NEON_I8MM, frozenset({"asimd", "asimddp", "i8mm"})),
    (InstructionSet.NEON_DOTPROD, frozenset({"asimd", "asimddp"})),
    (InstructionSet.NEON, frozenset({"asimd"})),
)
_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16",
             "asimd", "asimddp", "i8mm", "bf16", "sve")  # fmt: skip
# cgroup v1 writes "no limit" as a number near 2**63, rounded to a page.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """A processor as this process may use it."""

    name: str
    """As its maker calls it."""
    architecture: str
    """``x86_64``, ``aarch64`` and so on."""
    features: tuple[str, ...]
    """The features of the processor that matter to inference."""
    instruction_sets: tuple[InstructionSet, ...]
    """What variants it can run, best first; `InstructionSet.ANY` is always last."""
    threads: int
    """Threads that this process may run at once."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in bytes."""

    total: int
    """What the machine has."""
    available: int
    """What the machine can give without swapping."""
    limit: int | None
    """The limit of this process' control group; None: no limit."""
    limit_available: int | None
    """What is left under that limit."""

    @property
    def usable(self) -> int:
        """What this process can still take."""
        if self.limit_available is None:
            return self.available
        return min(self.available, self.limit_available)


def detect_cpu(*, root: Path = _ROOT) -> Cpu:
    """Read name, features and usable threads of the processor."""
    text = _read(root / "proc/cpuinfo")
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = frozenset((fields.get("flags") or fields.get("Features") or "").split())
    arm = "asimd" in flags
    found = tuple(name for name, needs in (_ARM if arm else _X86) if needs <= flags)
    return Cpu(
        name=fields.get("model name") or platform.processor() or "unknown processor",
        architecture=platform.machine(),
        features=tuple(feature for feature in _FEATURES if feature in flags),
        instruction_sets=(*found, InstructionSet.ANY),
        threads=usable_threads(root=root),
    )


def instruction_sets(override: str, *, root: Path = _ROOT) -> tuple[InstructionSet, ...]:
    """Instruction sets to try, best first.

    Args:
        override: the best one to use instead of what is detected; empty detects it.
        root: where ``/proc`` and ``/sys`` are.

    Raises:
        ConfigurationError: the override is not the name of an instruction set.
    """
    if not override:
        return detect_cpu(root=root).instruction_sets
    try:
        best = InstructionSet(override)
    except ValueError:
        raise ConfigurationError(
            f"'{override}' is not an instruction set.",
            hint=f"Use one of: {', '.join(InstructionSet)}.",
        ) from None
    for table in (_X86, _ARM):
        names = [name for name, _ in table]
        if best in names:
            return (*names[names.index(best) :], InstructionSet.ANY)
    return (InstructionSet.ANY,)


def usable_threads(*, root: Path = _ROOT) -> int:
    """Threads that may run at once: the smaller of CPU affinity and the control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cpu_quota(root)
    threads = count or 1
    # A quota of 1.5 CPUs gets 1 thread: two would be stopped for a part of each period.
    return max(1, min(threads, int(quota))) if quota is not None else threads


def detect_memory(*, root: Path = _ROOT) -> Memory:
    """Read how much memory the machine has and the control group allows."""
    fields: dict[str, int] = {}
    for line in _read(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        number = value.split()
        if number and number[0].isdigit():
            fields[key] = int(number[0]) * 1024
    limit, left = _memory_limit(root)
    return Memory(
        total=fields.get("MemTotal", 0),
        available=fields.get("MemAvailable", fields.get("MemFree", 0)),
        limit=limit,
        limit_available=left,
    )


def _memory_limit(root: Path) -> tuple[int | None, int | None]:
    """The tightest limit of this process' control groups, and what is left under it."""
    best: tuple[int | None, int | None] = (None, None)
    for folder, limit_name, usage_name, cache_name in _memory_folders(root):
        limit = _number(folder / limit_name)
        if limit is None or limit >= _NO_LIMIT:
            continue
        usage = _number(folder / usage_name) or 0
        # File pages count as usage and are given back when memory is needed.
        left = max(0, limit - max(0, usage - _statistic(folder / "memory.stat", cache_name)))
        if best[1] is None or left < best[1]:
            best = (limit, left)
    return best


def _memory_folders(root: Path) -> list[tuple[Path, str, str, str]]:
    v2 = ("memory.max", "memory.current", "inactive_file")
    v1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    folders = [(folder, *v2) for folder in _cgroup_folders(root, "")]
    return folders + [(folder, *v1) for folder in _cgroup_folders(root, "memory")]


def _cpu_quota(root: Path) -> float | None:
    quotas: list[float] = []
    for folder in _cgroup_folders(root, ""):
        parts = _read(folder / "cpu.max").split()
        if len(parts) == 2 and parts[0].isdigit() and int(parts[1]):
            quotas.append(int(parts[0]) / int(parts[1]))
    for folder in _cgroup_folders(root, "cpu"):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """The folders of this process' control group and its parents; controller "" is version 2."""
    base = root / "sys/fs/cgroup" / controller
    own = ""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if (controller and controller in names.split(",")) or (not controller and number == "0"):
            own = path.strip("/")
    folders = [base]
    for part in own.split("/") if own else []:
        # Inside a container the path may be the host's; folders that are not there read as empty.
        folders.append(folders[-1] / part)
    return folders


def _statistic(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
