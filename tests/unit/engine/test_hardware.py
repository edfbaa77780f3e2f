"""What the processor, the memory and the limits of this process allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from deepseek_api.errors import ConfigurationError
from deepseek_api.vocabulary import InstructionSet as Set
from deepseek_engine.hardware import detect_cpu, detect_memory, instruction_sets, usable_threads

GIB = 1 << 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    put(tmp_path, "proc/cpuinfo", "model name : Test CPU\nflags : avx2 fma\n")
    return tmp_path


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("flags : sse2", [Set.ANY], id="old x86"),
        pytest.param("flags : avx2 fma", [Set.AVX2, Set.ANY], id="avx2"),
        pytest.param("flags : avx2 fma avx_vnni", [Set.AVX_VNNI, Set.AVX2, Set.ANY], id="avx-vnni"),
        pytest.param(
            "flags : avx2 fma avx512f avx512bw avx512vl",
            [Set.AVX512, Set.AVX2, Set.ANY],
            id="avx512 without vnni",
        ),
        pytest.param(
            "flags : avx2 fma avx512f avx512bw avx512vl avx512_vnni",
            [Set.AVX512_VNNI, Set.AVX512, Set.AVX2, Set.ANY],
            id="avx512-vnni",
        ),
        pytest.param(
            "flags : avx2 fma avx512f avx512bw avx512vl avx512_vnni avx_vnni amx_tile amx_int8",
            [Set.AMX_INT8, Set.AVX512_VNNI, Set.AVX_VNNI, Set.AVX512, Set.AVX2, Set.ANY],
            id="amx",
        ),
        pytest.param("Features : fp asimd", [Set.NEON, Set.ANY], id="neon"),
        pytest.param(
            "Features : asimd asimddp i8mm",
            [Set.NEON_I8MM, Set.NEON_DOTPROD, Set.NEON, Set.ANY],
            id="neon i8mm",
        ),
        pytest.param("", [Set.ANY], id="nothing known"),
    ],
)
def test_instruction_sets_come_best_first(root: Path, line: str, expected: list[Set]) -> None:
    put(root, "proc/cpuinfo", f"processor : 0\n{line}\n")
    assert list(detect_cpu(root=root).instruction_sets) == expected


def test_the_processor_of_this_machine_has_a_name_and_threads() -> None:
    cpu = detect_cpu()
    assert cpu.name
    assert 1 <= cpu.threads <= (os.cpu_count() or 1)


def test_an_override_takes_the_place_of_what_is_detected(root: Path) -> None:
    assert instruction_sets("avx512-vnni", root=root)[0] is Set.AVX512_VNNI
    assert instruction_sets("avx2", root=root) == (Set.AVX2, Set.ANY)
    assert instruction_sets("neon", root=root) == (Set.NEON, Set.ANY)
    assert instruction_sets("any", root=root) == (Set.ANY,)


def test_an_unknown_override_is_refused_with_the_known_ones(root: Path) -> None:
    with pytest.raises(ConfigurationError, match="avx512-vnni"):
        instruction_sets("sse9", root=root)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 4, id="no limit"),
        pytest.param({"sys/fs/cgroup/cpu.max": "max 100000"}, 4, id="v2 max"),
        pytest.param({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2, id="v2 two"),
        pytest.param({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1, id="v2 one and a half"),
        pytest.param({"sys/fs/cgroup/cpu.max": "10000 100000"}, 1, id="v2 a tenth"),
        pytest.param({"sys/fs/cgroup/cpu.max": "900000 100000"}, 4, id="v2 above the affinity"),
        pytest.param(
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/pod\n",
                "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000",
            },
            3,
            id="v1",
        ),
        pytest.param(
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            4,
            id="v1 no limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            },
            2,
            id="v2 parent",
        ),
    ],
)
def test_usable_threads(
    root: Path, files: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for path, text in files.items():
        put(root, path, text)
    assert usable_threads(root=root) == expected


@pytest.mark.parametrize(
    ("files", "limit", "usable"),
    [
        pytest.param({}, None, 4 * GIB, id="no limit"),
        pytest.param({"sys/fs/cgroup/memory.max": "max"}, None, 4 * GIB, id="v2 max"),
        pytest.param(
            {
                "sys/fs/cgroup/memory.max": str(2 * GIB),
                "sys/fs/cgroup/memory.current": str(GIB),
                "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {GIB // 2}\n",
            },
            2 * GIB,
            2 * GIB - GIB // 2,
            id="v2: file pages can be given back",
        ),
        pytest.param(
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
                "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB // 4),
            },
            GIB,
            GIB - GIB // 4,
            id="v1",
        ),
        pytest.param(
            {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"},
            None,
            4 * GIB,
            id="v1 no limit",
        ),
        pytest.param(
            {"sys/fs/cgroup/memory.max": str(64 * GIB), "sys/fs/cgroup/memory.current": "0"},
            64 * GIB,
            4 * GIB,
            id="a limit above what the machine has",
        ),
    ],
)
def test_memory(root: Path, files: dict[str, str], limit: int | None, usable: int) -> None:
    for path, text in files.items():
        put(root, path, text)
    memory = detect_memory(root=root)
    assert (memory.total, memory.limit, memory.usable) == (8 * GIB, limit, usable)
