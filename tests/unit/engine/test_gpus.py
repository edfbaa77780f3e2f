"""GPUs are found without a GPU library."""

from __future__ import annotations

from pathlib import Path

import pytest
from deepseek_engine.gpus import Gpu, detect_gpus


def tool(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "bin" / "nvidia-smi"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    folder = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t NVIDIA H100\nIRQ: 5\n")
    return tmp_path


def test_the_tool_tells_name_memory_and_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path, monkeypatch, "echo 'NVIDIA H100, 81559, 590.1'; echo 'NVIDIA T4, [N/A], 590.1'")
    assert detect_gpus(root=tmp_path).gpus == (
        Gpu(name="NVIDIA H100", memory_bytes=81559 << 20, driver="590.1"),
        Gpu(name="NVIDIA T4", memory_bytes=None, driver="590.1"),
    )


def test_the_kernel_driver_is_asked_when_the_tool_fails(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path, monkeypatch, "exit 9")
    report = detect_gpus(root=driver)
    assert report.gpus == (Gpu(name="NVIDIA H100"),)
    assert "did not answer" in report.reason


def test_a_machine_without_a_driver_says_so(tmp_path: Path) -> None:
    report = detect_gpus(root=tmp_path, tool="no-such-tool")
    assert report.gpus == ()
    assert "No NVIDIA driver" in report.reason


def test_a_driver_without_a_gpu_says_so(tmp_path: Path) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    assert "sees no GPU" in detect_gpus(root=tmp_path, tool="no-such-tool").reason
