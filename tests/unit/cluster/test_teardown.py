"""Taking away does no harm where there is nothing, and finds mounts by their folder."""

from __future__ import annotations

from pathlib import Path

from deploy.cluster.host import Before, read_before, take_note
from deploy.cluster.layout import Layout
from deploy.cluster.teardown import mounts_below


def test_a_machine_that_was_never_changed_has_no_note(tmp_path: Path) -> None:
    assert read_before(Layout(tmp_path)) is None


def test_the_note_about_the_machine_can_be_read_back(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "home")
    take_note(layout)
    before = read_before(layout)
    assert isinstance(before, Before)
    assert before.settings["kernel.panic"].lstrip("-").isdigit()


def test_no_mount_lies_below_a_plain_folder(tmp_path: Path) -> None:
    assert mounts_below(tmp_path) == []


def test_a_mount_below_the_root_is_found() -> None:
    assert Path("/proc") in mounts_below(Path("/"))
