"""How images leave docker, podman and buildah, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from deepseek_api.errors import ConfigurationError

from deploy.cluster.images import export_command, load
from deploy.cluster.layout import Layout


@pytest.mark.parametrize("program", ["docker", "podman", "buildah"])
def test_an_exported_image_keeps_its_name(program: str) -> None:
    command = export_command(program, "localhost/x:1", Path("/tmp/x.tar"))
    assert command[0] == program
    assert any(part.endswith("localhost/x:1") for part in command)
    assert any("/tmp/x.tar" in part for part in command)


def test_what_is_neither_file_nor_image_is_an_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    layout = Layout(tmp_path)
    layout.run.mkdir()
    layout.socket.touch()
    with pytest.raises(ConfigurationError, match="localhost/absent:1"):
        load(layout, "localhost/absent:1")


def test_without_a_cluster_nothing_can_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No cluster runs"):
        load(Layout(tmp_path), "localhost/x:1")
