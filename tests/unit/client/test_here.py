"""What this machine can run, looked up without loading anything."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from deepseek import _here
from deepseek_api.catalog import builtin_catalog
from deepseek_api.errors import DeviceError, ErrorCode


@pytest.mark.parametrize(
    ("text", "kind", "index"),
    [("cpu", "cpu", 0), ("cuda", "cuda", 0), ("cuda:3", "cuda", 3), ("npu:1", "npu", 1)],
)
def test_a_device_has_a_kind_and_a_number(text: str, kind: str, index: int) -> None:
    assert _here.parse_device(text) == _here.DeviceName(kind, index)


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:x", "cpu:1", "CUDA:0", "cuda:0 "])
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match="is not a device") as caught:
        _here.parse_device(text)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_the_driver_names_its_gpus(tmp_path: Path) -> None:
    folder = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t\t NVIDIA L4\nIRQ: 3\n")
    assert _here.nvidia_gpus(root=tmp_path) == ["NVIDIA L4"]


def test_device_files_count_where_the_driver_is_silent(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    assert len(_here.nvidia_gpus(root=tmp_path)) == 2


def test_a_machine_without_gpu_has_none(tmp_path: Path) -> None:
    assert _here.nvidia_gpus(root=tmp_path) == []


@pytest.mark.parametrize(
    ("device", "gpus", "words"),
    [
        ("cuda:0", [], "no NVIDIA GPU"),
        ("cuda:1", ["L4"], "1 NVIDIA GPU"),
        ("rocm", ["L4"], "no back end for 'rocm'"),
    ],
)
def test_a_device_that_cannot_be_used_has_a_reason(
    device: str, gpus: list[str], words: str
) -> None:
    reason = _here.why_no_device(_here.parse_device(device), gpus=gpus)
    assert reason is not None
    assert words in reason


def test_a_gpu_can_be_used_where_torch_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    device = _here.parse_device("cuda:0")
    monkeypatch.setattr(_here, "CUDA_PACKAGES", ("json",))
    assert _here.why_no_device(device, gpus=["L4"]) is None
    monkeypatch.setattr(_here, "CUDA_PACKAGES", ("json", "no_such_module_x"))
    reason = _here.why_no_device(device, gpus=["L4"])
    assert reason == "the package 'no_such_module_x' is not installed: pip install 'deepseek[cuda]'"


def test_the_processor_can_always_be_used() -> None:
    assert _here.require_device("cpu") == _here.DeviceName("cpu")


def test_an_entry_that_the_release_cannot_run_says_why() -> None:
    entry = builtin_catalog().get("minilm").model_copy(update={"availability": "Not yet."})
    assert _here.why_not(entry) == "Not yet."


def test_a_package_that_is_not_installed_is_named_with_its_command() -> None:
    entry = builtin_catalog().get("minilm")
    source = entry.source.model_copy(update={"uri": "pip://no-such-package-x"})
    reason = _here.why_not(entry.model_copy(update={"source": source}))
    assert (
        reason == "The package 'no-such-package-x' is not installed: pip install no-such-package-x"
    )


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not _here.port_is_free(port)
    assert _here.port_is_free(port)


def test_missing_modules_are_listed() -> None:
    names = ["json", "no_such_module_x", "no_such_package.part"]
    assert _here.missing_modules(names) == names[1:]


def test_a_folder_counts_all_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"123")
    (tmp_path / "a" / "b" / "two").write_bytes(b"45")
    assert _here.folder_bytes(tmp_path) == 5
    assert _here.folder_bytes(tmp_path / "none") == 0
