"""Versions are pinned once, in go.mod, and reach names of folders and linked binaries."""

from __future__ import annotations

from pathlib import Path

import pytest
from deepseek_api.errors import ConfigurationError

from deploy.cluster import binaries
from deploy.cluster.layout import cache_dir
from deploy.cluster.versions import KIND_NODE_IMAGE, TOOLS, Tool, pinned_version

GO_MOD = """module example.org/tools/thing

go 1.26.0

require example.org/single v0.1.0

require (
	example.org/other v2.0.0
	example.org/thing v1.36.3 // indirect
)

replace example.org/thing/api => example.org/thing/api v9.9.9
"""


@pytest.mark.parametrize(
    ("module", "version"),
    [
        ("example.org/thing", "v1.36.3"),
        ("example.org/other", "v2.0.0"),
        ("example.org/single", "v0.1.0"),
    ],
)
def test_a_version_is_read_from_what_go_mod_requires(module: str, version: str) -> None:
    assert pinned_version(GO_MOD, module) == version


@pytest.mark.parametrize("module", ["example.org/thing/api", "example.org/absent", "example.org"])
def test_a_module_that_is_not_required_is_an_error_with_its_name(module: str) -> None:
    with pytest.raises(ConfigurationError, match=module):
        pinned_version(GO_MOD, module)


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_every_tool_has_committed_modules_and_declares_its_packages(tool: Tool) -> None:
    go_mod = (tool.folder / "go.mod").read_text()
    assert (tool.folder / "go.sum").stat().st_size > 0
    assert tool.version.startswith("v")
    for package in tool.packages.values():
        assert package in go_mod.replace("\t", " ").replace("tool ", " ").split()


def test_versions_are_linked_into_kubernetes_without_the_leading_v_where_it_is_a_number() -> None:
    flags = TOOLS["kubernetes"].linker_flags()
    version = TOOLS["kubernetes"].version
    major, minor, _ = version.removeprefix("v").split(".")
    assert f"version.gitVersion={version}" in flags
    assert f"version.gitMajor={major}" in flags
    assert f"version.gitMinor={minor}" in flags


def test_the_node_image_of_kind_has_the_same_minor_version_and_a_digest() -> None:
    minor = TOOLS["kubernetes"].version.rpartition(".")[0]
    assert KIND_NODE_IMAGE.startswith(f"kindest/node:{minor}.")
    assert "@sha256:" in KIND_NODE_IMAGE


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DEEPSEEK_CACHE_CLUSTER": "/a"}, "/a/deepseek/cluster"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/deepseek/cluster"),
        ({"DEEPSEEK_CACHE_CLUSTER": "/a", "XDG_CACHE_HOME": "/b"}, "/a/deepseek/cluster"),
        ({"HOME": "/c"}, "/c/.cache/deepseek/cluster"),
    ],
    ids=["own variable", "cache home", "own variable first", "neither"],
)
def test_binaries_stay_in_the_users_cache(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DEEPSEEK_CACHE_CLUSTER", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


def test_a_folder_of_binaries_is_named_after_tool_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_CACHE_CLUSTER", str(tmp_path))
    tool = TOOLS["etcd"]
    assert binaries.tool_dir(tool).name == f"etcd-{tool.version}"
    assert binaries.tool_dir(tool).is_relative_to(tmp_path)


def test_an_interrupted_build_does_not_count_as_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_CACHE_CLUSTER", str(tmp_path))
    folder = binaries.tool_dir(TOOLS["etcd"])
    folder.mkdir(parents=True)
    (folder / "etcd").write_bytes(b"half a program")
    assert not binaries.is_built("etcd")


@pytest.mark.parametrize("build", [lambda: binaries.binary("nope"), lambda: binaries.build(["no"])])
def test_an_unknown_name_is_an_error_that_lists_what_is_known(build: object) -> None:
    assert callable(build)
    with pytest.raises(ConfigurationError) as caught:
        build()
    assert "etcd" in (caught.value.hint or "")


def test_without_go_a_build_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_CACHE_CLUSTER", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="Go is needed to build etcd"):
        binaries.build(["etcd"])
