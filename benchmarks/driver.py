"""Driving subjects in turns: one runs, the others are stopped.

Why it exists: thread pools spin after their work, and two that spin in turns cost each other half
of their speed. Every subject is a process of its own and is stopped (SIGSTOP) between its turns;
the rounds are interleaved (A B C, A B C, ...), so that a machine whose speed drifts treats all
alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["BenchError", "Child", "children", "interleave"]

ROOT = Path(__file__).resolve().parent.parent
TURN_LIMIT_S = 300.0


class BenchError(Exception):
    """A bench cannot go on; the message says why."""


class Child:
    """A subject in its own process; stopped whenever it is not its turn."""

    def __init__(self, name: str, spec: Mapping[str, Any]) -> None:
        """Start it, wait until it has answered its first input, stop it.

        Raises:
            BenchError: it ended instead.
        """
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
        )
        try:
            ready = self._ask(spec)
        except BaseException:
            self.close()
            raise
        self.choice: str = ready["choice"]
        """The variant that it chose, if it chooses."""
        self.first: list[float] = ready["first"]
        """Its answer to the first input, flat."""
        self._process.send_signal(signal.SIGSTOP)

    def turn(self, **command: Any) -> dict[str, Any]:
        """Let it run one turn and stop it again; return its answer.

        Raises:
            BenchError: it ended, or did not answer in time.
        """
        self._process.send_signal(signal.SIGCONT)
        answer = self._ask(command)
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            # A subject holds nothing that has to be finished in order.
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        if not select.select([stdout], [], [], TURN_LIMIT_S)[0]:
            raise BenchError(f"'{self.name}' did not answer within {TURN_LIMIT_S:g} s.")
        line = stdout.readline()
        if not line:
            raise BenchError(f"'{self.name}' ended: {self._last_error()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_error(self) -> str:
        size = os.fstat(self._errors.fileno()).st_size
        text = os.pread(self._errors.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
        lines = text.strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def children(specs: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Child]]:
    """Subjects by name, started one after the other; all have ended at the end."""
    with contextlib.ExitStack() as stack:
        started = {}
        for name, spec in specs.items():
            started[name] = Child(name, spec)
            stack.callback(started[name].close)
        yield started


def interleave(
    subjects: Mapping[str, Child], *, rounds: int, passes: int
) -> dict[str, list[list[float]]]:
    """Milliseconds of all calls by subject and round."""
    taken: dict[str, list[list[float]]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, child in subjects.items():
            taken[name].append(child.turn(passes=passes)["ms"])
    return taken
