"""Peers that are carried, absent or broken, and the command without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import ROOT, _parse
from benchmarks.gpu.carrying import Carried, gather
from benchmarks.gpu.peers import find, use_carried

MIB = 1024 * 1024


def wheel(requirement: str, folder: Path) -> Path:
    """A wheel of a package with one module and two compiled libraries of a MiB each."""
    name = requirement.partition("==")[0]
    if name == "absent":
        raise RuntimeError("ERROR: No matching distribution found for absent")
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "value = 7\n")
        for library in ("cuda118", "cuda130"):
            archive.writestr(f"{name}/lib_{library}.so", bytes(MIB))
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\n")
    return path


def test_what_is_absent_or_too_large_is_left_out_with_its_reason(tmp_path: Path) -> None:
    site = tmp_path / "site"
    carried = [
        Carried("first==1", keep_libraries="cuda130"),
        Carried("absent==1"),
        Carried("second==1"),
    ]
    taken = gather(site, carried=carried, fetch=wheel, limit_bytes=2 * MIB)
    assert [t.reason for t in taken] == [
        "",
        "ERROR: No matching distribution found for absent",
        "2 MiB would pass the limit of 2 MiB",
    ]
    assert sorted(p.name for p in (site / "first").iterdir()) == ["__init__.py", "lib_cuda130.so"]
    assert not (site / "second").exists()
    listing = json.loads((site / "carried.json").read_text())
    assert [entry["requirement"] for entry in listing] == ["first==1", "absent==1", "second==1"]


def test_a_carried_package_is_found_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    site = tmp_path / "site"
    gather(site, carried=[Carried("carried_peer_x==1")], fetch=wheel)
    use_carried(site)
    peer, module = find("carried_peer_x")
    assert (peer.version, module.value) == ("1.0", 7)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_x", "needs no_such_module_x"),
        ("raise OSError('undefined symbol')", "does not load: OSError: undefined symbol"),
    ],
    ids=["needs something else", "does not load"],
)
def test_a_peer_that_does_not_load_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "broken_peer_x.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("broken_peer_x", None)
    peer, module = find("broken_peer_x")
    assert module is None
    assert peer.reason == reason


def test_a_peer_that_is_not_there_says_so() -> None:
    peer, _ = find("no_such_peer_x")
    assert not peer.there
    assert peer.reason == "not installed and not carried"


def test_parts_are_named_by_a_list() -> None:
    assert _parse(["--parts", "k1,K4"]).parts == ("k1", "k4")
    with pytest.raises(SystemExit):
        _parse(["--parts", "k99"])


def test_the_command_needs_nothing_of_the_project_and_tells_that_there_is_no_gpu() -> None:
    # Without site packages: not even torch is there.
    command = [sys.executable, "-S", "-m", "benchmarks.gpu", "--parts", "k1"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ran.returncode, ran.stderr) == (2, "torch is not installed.\n")
