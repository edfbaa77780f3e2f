"""Components are kept running, and stopped for sure when somebody wants that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from deepseek_api.errors import ConfigurationError

from deploy.cluster import control
from deploy.cluster.components import Component, dump_components
from deploy.cluster.layout import Layout
from deploy.cluster.processes import end_all, is_member, member_pids, read_number
from deploy.cluster.supervisor import start_supervisor
from tests.support.worker import until

SLEEP = (sys.executable, "-c", "import signal; signal.pause()")


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    """A supervisor that keeps one component running."""
    layout = Layout(tmp_path)
    layout.run.mkdir()
    layout.logs.mkdir()
    want(layout, Component("thing", (*SLEEP, "--level=1")))
    start_supervisor(layout)
    try:
        until(lambda: control.pid_of("thing", layout), what="the first start")
        yield layout
    finally:
        assert end_all(lambda: member_pids(tmp_path), timeout_s=20) == []


def want(layout: Layout, *components: Component) -> None:
    layout.components_file.write_text(dump_components(components))


def test_a_component_that_is_killed_runs_again(layout: Layout) -> None:
    first = control.pid_of("thing", layout)
    control.kill("thing", layout)
    assert control.pid_of("thing", layout) not in (None, first)


def test_a_stopped_component_stays_down_until_it_is_started(layout: Layout) -> None:
    first = control.pid_of("thing", layout)
    with control.paused("thing", layout):
        # A second component proves that the supervisor looked again and left this one alone.
        want(layout, Component("thing", (*SLEEP, "--level=1")), Component("other", SLEEP))
        until(lambda: control.pid_of("other", layout), what="the other component")
        assert control.pid_of("thing", layout) is None
    assert control.pid_of("thing", layout) not in (None, first)


def test_a_component_restarts_with_other_flags_and_only_when_they_differ(layout: Layout) -> None:
    first = control.pid_of("thing", layout)
    control.set_flags("thing", {"level": "1"}, layout)
    assert control.pid_of("thing", layout) == first
    control.set_flags("thing", {"level": "2"}, layout)
    second = control.pid_of("thing", layout)
    assert second not in (None, first)
    command = Path(f"/proc/{second}/cmdline").read_bytes().split(b"\0")
    assert b"--level=2" in command
    assert b"--level=1" not in command


def test_an_asked_supervisor_ends_what_it_started(layout: Layout) -> None:
    pid = read_number(layout.supervisor_pid)
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    until(lambda: not member_pids(layout.home), what="the end of all processes")


def test_what_a_crashed_supervisor_left_is_found_by_its_mark(layout: Layout) -> None:
    component, supervisor = control.pid_of("thing", layout), read_number(layout.supervisor_pid)
    assert component is not None
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not is_member(supervisor, layout.home), what="the supervisor's end")
    assert member_pids(layout.home) == [component]
    assert end_all(lambda: member_pids(layout.home), timeout_s=20) == []


def test_processes_of_somebody_else_are_never_members(layout: Layout, tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as stranger:
        try:
            assert stranger.pid not in member_pids(layout.home)
            assert not is_member(stranger.pid, tmp_path / "elsewhere")
        finally:
            stranger.kill()


def test_an_unknown_component_is_an_error_that_lists_the_known_ones(layout: Layout) -> None:
    with pytest.raises(ConfigurationError, match="thing"):
        control.stop("nothing", layout)


def test_without_a_cluster_control_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No cluster"):
        control.kill("etcd", Layout(tmp_path / "absent"))


def test_a_component_that_ends_by_itself_is_counted(layout: Layout) -> None:
    want(layout, Component("broken", (sys.executable, "-c", "raise SystemExit(3)")))
    until(lambda: (read_number(layout.ends_file("broken")) or 0) >= 2, what="two ends")
    assert "broken ended with status 3" in layout.log_file("supervisor").read_text()
