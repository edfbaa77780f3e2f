"""A real server for a bench: a front end process with its engine process, on free ports."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks.driver import ROOT, BenchError

__all__ = ["Server", "cpu_seconds", "resident_mib", "worker_command"]

MIB = 1 << 20
POLL_S = 0.02
READY_LIMIT_S = 180.0
STOP_LIMIT_S = 20.0


def worker_command(folder: Path, models: Sequence[Mapping[str, Any]]) -> list[str]:
    """The command of a worker that serves models (fields of ``ModelConfig``) on free ports."""
    path = folder / "worker.json"
    config = {"models": list(models), "grpc_port": 0, "http_port": 0, "log_format": "json"}
    path.write_text(json.dumps(config), encoding="utf-8")
    return [sys.executable, "-m", "deepseek_worker", "--config", str(path)]


@dataclass(frozen=True, slots=True)
class _Facts:
    grpc_port: int
    http_port: int
    engine: int


class Server:
    """A started server, ready to answer; used as a context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it and wait until ``/readyz`` says yes.

        Raises:
            BenchError: it ended, or was not ready in time.
        """
        self._lines: list[dict[str, Any]] = []
        started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "100"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._facts = self._wait_ready()
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - started
        """Seconds from the start of the process until it was ready."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def target(self) -> str:
        """Address of gRPC."""
        return f"127.0.0.1:{self._facts.grpc_port}"

    @property
    def front_end(self) -> int:
        """Process id of the front end."""
        return self._process.pid

    @property
    def engine(self) -> int:
        """Process id of the engine."""
        return self._facts.engine

    def stop(self) -> None:
        """End it; the engine process ends with its front end."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_LIMIT_S)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(STOP_LIMIT_S)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _wait_ready(self) -> _Facts:
        limit = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < limit:
            listens = self._logged("the worker listens")
            engine = self._logged("the engine process started")
            if listens and engine and _is_ready(int(listens["http_port"])):
                return _Facts(
                    int(listens["grpc_port"]), int(listens["http_port"]), int(engine["pid"])
                )
            if self._process.poll() is not None:
                raise BenchError(f"The server ended with status {self._process.returncode}.")
            time.sleep(POLL_S)
        raise BenchError(f"The server was not ready within {READY_LIMIT_S:g} s.")

    def _logged(self, message: str) -> dict[str, Any] | None:
        return next((line for line in self._lines if line.get("message") == message), None)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with contextlib.suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict):
                    self._lines.append(content)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def resident_mib(*processes: int) -> float:
    """Resident memory of processes together, MiB; pages that they share count for each."""
    return float(sum(psutil.Process(pid).memory_info().rss for pid in processes)) / MIB


def cpu_seconds(process: int) -> float:
    """Processor time that the threads of a process have used, user and system, seconds.

    From ``schedstat``, which counts nanoseconds; ``stat`` counts steps of 10 ms.
    """
    total = 0
    for file in Path("/proc", str(process), "task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread may end between listing and reading
            total += int(file.read_text().split()[0])
    return total / 1e9
