"""Keep the listed components running: ``python -m deploy.cluster.supervisor HOME``.

Why it exists: a control plane whose controller manager died looks healthy and does nothing. This
process starts what the list names, starts again what dies or has a new command line, and leaves
down what is paused. It holds no state of its own: the list, the process ids and the pauses are
files, so everything else talks to it by writing files. Asked to terminate, it kills what it
started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from deploy.cluster.components import Component, read_components
from deploy.cluster.host import search_path
from deploy.cluster.layout import Layout
from deploy.cluster.processes import MEMBER_VARIABLE

__all__ = ["main", "start_supervisor"]

_TICK_S = 0.1
_LONGEST_WAIT_S = 5.0
_STEADY_S = 10.0
_GRACE_S = 5.0


@dataclass(slots=True)
class _Child:
    component: Component
    process: subprocess.Popen[bytes]
    started: float
    terminated: float | None = None


@dataclass(slots=True)
class _Supervisor:
    layout: Layout
    children: dict[str, _Child] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    waits: dict[str, float] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)

    def tick(self) -> None:
        """Look once at the list and at every process, and start or end what differs."""
        wanted = {component.name: component for component in self._listed()}
        for name, child in list(self.children.items()):
            if child.process.poll() is not None:
                self._ended(name, child)
            elif wanted.get(name) != child.component:
                _terminate(child)
        for name, component in wanted.items():
            if name not in self.children and not self.layout.pause_file(name).exists():
                self._start(component)

    def end(self) -> None:
        """Kill every component and collect it."""
        for child in self.children.values():
            child.process.kill()
        for child in self.children.values():
            child.process.wait()

    def _listed(self) -> list[Component]:
        try:
            return read_components(self.layout.components_file.read_text())
        except FileNotFoundError:
            return []

    def _ended(self, name: str, child: _Child) -> None:
        del self.children[name]
        self.layout.pid_file(name).unlink(missing_ok=True)
        now = time.monotonic()
        on_purpose = child.terminated is not None or self.layout.pause_file(name).exists()
        steady = now - child.started > _STEADY_S
        wait = 0.0 if on_purpose else 0.2 if steady else self.waits.get(name, 0.1) * 2
        self.waits[name] = min(wait, _LONGEST_WAIT_S)
        self.not_before[name] = now + self.waits[name]
        if not on_purpose:
            self.ends[name] += 1
            _write(self.layout.ends_file(name), str(self.ends[name]))
        _log(f"{name} ended with status {child.process.returncode}")

    def _start(self, component: Component) -> None:
        name, now = component.name, time.monotonic()
        if now < self.not_before.get(name, 0.0):
            return
        with self.layout.log_file(name).open("ab") as log:
            process = subprocess.Popen(
                component.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.layout.home,
                env=_environment(self.layout, component),
                start_new_session=True,
            )
        self.children[name] = _Child(component, process, now)
        _write(self.layout.pid_file(name), str(process.pid))
        _log(f"{name} started as process {process.pid}")


def start_supervisor(layout: Layout) -> int:
    """Start the supervisor in a session of its own; return its process id."""
    root = Path(__file__).resolve().parents[2]
    with layout.log_file("supervisor").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cluster.supervisor", str(layout.home)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=root,
            env=os.environ | {MEMBER_VARIABLE: str(layout.home)},
            start_new_session=True,
        )
    _write(layout.supervisor_pid, str(process.pid))
    return process.pid


def main(arguments: list[str]) -> int:
    """Supervise until somebody asks this process to terminate."""
    supervisor = _Supervisor(Layout(Path(arguments[0])))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    while not asked.is_set():
        supervisor.tick()
        asked.wait(_TICK_S)
    supervisor.end()
    return 0


def _environment(layout: Layout, component: Component) -> dict[str, str]:
    # containerd finds its shim beside itself, and the kubelet and CNI plugins find iptables.
    beside = str(Path(component.command[0]).parent)
    # Components reach each other directly; only containerd talks to the outside.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if component.name == "containerd" or not name.lower().endswith("_proxy")
    }
    path = os.pathsep.join([beside, search_path()])
    return inherited | {MEMBER_VARIABLE: str(layout.home), "PATH": path}


def _terminate(child: _Child) -> None:
    now = time.monotonic()
    if child.terminated is None:
        child.terminated = now
        child.process.terminate()
    elif now - child.terminated > _GRACE_S:
        child.process.kill()


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_text(text)
    scratch.rename(path)


def _log(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
