"""The command line in tests: inside this process for speed, and as real processes.

`invoke` runs a command in this process and gives what it printed. `Serve` is a real
``deepseek serve``; leaving it ends the process and, through it, the engine.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from deepseek.cli._commands import app
from deepseek.cli.infer_compat import app as infer_app
from typer.testing import CliRunner

from tests.support.worker import forget_output, until, watch_output

OFFLINE = {"HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str


def invoke(*arguments: str, columns: int = 80, stdin: str = "", program: str = "deepseek") -> Ran:
    """Run ``deepseek`` (or ``deepseek-infer``) in this process, on a screen of some columns."""
    chosen = app if program == "deepseek" else infer_app
    result = CliRunner().invoke(
        chosen, list(arguments), input=stdin, env={**OFFLINE, "COLUMNS": str(columns)}
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def environment(cache: Path | None = None) -> dict[str, str]:
    """The environment of a process that may not reach a hub."""
    own = {"DEEPSEEK_CACHE": str(cache)} if cache is not None else {}
    return {**os.environ, **OFFLINE, **own, "COLUMNS": "100"}


def run(*arguments: str, stdin: str = "", cache: Path | None = None, timeout_s: float = 120) -> Ran:
    """Run ``deepseek`` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "deepseek", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(cache),
        timeout=timeout_s,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


class Serve:
    """A running ``deepseek serve`` on free ports."""

    def __init__(
        self, *arguments: str, stdin: str = "", extra: Mapping[str, str] | None = None
    ) -> None:
        """Start it; ``arguments`` follow ``deepseek serve``."""
        ports = ["--grpc-port", "0", "--http-port", "0", "--log-format", "json"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deepseek", "serve", *arguments, *ports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment(), **(extra or {})},
        )
        assert self._process.stdin is not None
        self._process.stdin.write(stdin)
        self._process.stdin.close()
        self.out: list[str] = []
        self.err: list[str] = []
        watch_output(self._process.pid, self.err)
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in (
                (self._process.stdout, self.out),
                (self._process.stderr, self.err),
            )
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self.wait()
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            forget_output(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """Address of gRPC, as printed when everything is ready."""

        def found() -> str | None:
            match = re.search(r"gRPC on (\S+),", "".join(self.out))
            if match is None and self._process.poll() is not None:
                raise AssertionError(f"serve ended: {''.join(self.out + self.err)}")
            return match[1] if match else None

        return str(until(found, timeout_s=90, what="the address of the server"))

    def wait_line(self, text: str, *, timeout_s: float = 90) -> None:
        """Wait until something was printed to standard output."""

        def found() -> bool:
            ended = self._process.poll() is not None and not self._readers[0].is_alive()
            printed = "".join(self.out)
            if ended and text not in printed:
                raise AssertionError(f"serve ended: {printed}{''.join(self.err)}")
            return text in printed

        until(found, timeout_s=timeout_s, what=f"the line {text!r}")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 60) -> Ran:
        """Wait for its end."""
        code = self._process.wait(timeout_s)
        for reader in self._readers:
            reader.join(10)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        return Ran(code, "".join(self.out), "".join(self.err))

    def _read(self, stream: object, lines: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            lines.append(line)


def pipeline(
    models: Mapping[str, str | Path], *, extra: Sequence[str] = (), name: str = "p"
) -> str:
    """A ModelPipeline file; ``models`` gives a bundle folder or a source URI by model name."""
    lines = ["apiVersion: deepseek.ai/v1alpha1", "kind: ModelPipeline", "metadata:"]
    lines += [f"  name: {name}", "spec:", "  models:"]
    for model, source in models.items():
        uri = source.as_uri() if isinstance(source, Path) else source
        lines += [f"  - name: {model}", f"    source: {{uri: '{uri}'}}"]
    return "\n".join([*lines, *extra]) + "\n"
