"""Real worker processes for tests: started on free ports, watched through their logs.

`WorkerProcess` is a context manager; leaving it ends the worker and, through the worker's own
lifeline, the engine. `until` polls a condition with a deadline; when that passes, its error holds
the last lines of every running process, because a wait is mostly lost for a reason that is there.

Time limits are for processes that hang. They leave room for a machine that is busy with other work;
no test takes nearly as long by itself.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc

_PAUSE = threading.Event()
_PRINTED: dict[int, list[str]] = {}
_LAST_LINES = 40


def watch_output(pid: int, lines: list[str]) -> None:
    """Let errors of `until` show what this process printed, until `forget_output`."""
    _PRINTED[pid] = lines


def forget_output(pid: int) -> None:
    """The process is gone."""
    _PRINTED.pop(pid, None)


def until(
    condition: Callable[[], Any], *, timeout_s: float = 60.0, what: str = "the condition"
) -> Any:
    """Poll until the condition gives something true, and return that.

    Raises:
        AssertionError: it did not within the time.
    """
    limit = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > limit:
            outputs = "".join(
                f"\n--- process {pid} printed:\n{''.join(lines[-_LAST_LINES:])}"
                for pid, lines in list(_PRINTED.items())
            )
            raise AssertionError(f"{what} did not come true within {timeout_s} s{outputs}")
        _PAUSE.wait(0.01)
    return value


def model(name: str, bundle: Path, **settings: Any) -> dict[str, Any]:
    """A model of a worker's configuration."""
    return {"name": name, "bundle": str(bundle), **settings}


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class WorkerProcess:
    """One ``python -m deepseek_worker`` and what it logs."""

    def __init__(
        self,
        folder: Path,
        models: Sequence[Mapping[str, Any]],
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """Start a worker.

        Args:
            folder: place for its configuration file.
            models: see `model`.
            arguments: further command line arguments.
            environment: variables that are added to those of this process.
            settings: fields of WorkerConfig that differ from the defaults.
        """
        config = {"models": list(models), "grpc_port": 0, "http_port": 0, "threads": 1} | settings
        path = folder / f"worker-{id(self)}.json"
        path.write_text(json.dumps(config))
        self.logs: list[dict[str, Any]] = []
        self.raw: list[str] = []
        # Not the test's own folder: its path may be too long for the engine's socket.
        self._temporary = tempfile.TemporaryDirectory(prefix="worker-test-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deepseek_worker", "--config", str(path), *arguments],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TMPDIR": self._temporary.name} | dict(environment or {}),
        )
        watch_output(self._process.pid, self.raw)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        engine = self.engine_pid if self.find_log("the engine process started") else None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        if self._process.stderr is not None:
            self._process.stderr.close()
        if engine is not None:
            until(lambda: not alive(engine), what="the engine process is gone")
        forget_output(self._process.pid)
        self._temporary.cleanup()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def engine_pid(self) -> int:
        """Process id of the engine that was started last."""
        starts = [log for log in self.logs if log["message"] == "the engine process started"]
        return int(starts[-1]["pid"])

    @property
    def target(self) -> str:
        """Address of gRPC."""
        return f"127.0.0.1:{self.wait_log('the worker listens')['grpc_port']}"

    @property
    def http_port(self) -> int:
        return int(self.wait_log("the worker listens")["http_port"])

    def find_log(self, message: str) -> dict[str, Any] | None:
        return next((log for log in self.logs if log["message"] == message), None)

    def wait_log(self, message: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
        """The first log line with this message.

        Raises:
            AssertionError: it did not come, or the worker ended before.
        """

        def found() -> dict[str, Any] | None:
            log = self.find_log(message)
            if log is None and self._process.poll() is not None and not self._reader.is_alive():
                raise AssertionError(f"the worker ended without {message!r}: {self.raw}")
            return log

        log: dict[str, Any] = until(found, timeout_s=timeout_s, what=f"log {message!r}")
        return log

    def wait_ready(self, *, timeout_s: float = 90.0) -> Self:
        """Wait until ``/readyz`` says yes."""
        until(lambda: self.get("/readyz")[0] == 200, timeout_s=timeout_s, what="readiness")
        return self

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Status and body of an HTTP answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=10)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as written."""
        lines = self.get("/metrics")[1].splitlines()
        pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}

    def left_behind(self) -> list[Path]:
        """What this worker made in the folder for temporary files and did not remove yet."""
        return list(Path(self._temporary.name).glob("deepseek-*"))

    def signal(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self, *, timeout_s: float = 60.0) -> int:
        """The exit code."""
        code = self._process.wait(timeout_s)
        self._reader.join(10)
        return code

    @contextmanager
    def channel(self, **options: Any) -> Iterator[grpc.Channel]:
        """A plain gRPC channel."""
        with grpc.insecure_channel(self.target, options=list(options.items())) as channel:
            yield channel

    @contextmanager
    def stub(self) -> Iterator[inference_pb2_grpc.GRPCInferenceServiceStub]:
        """A stub of the inference service."""
        with self.channel() as channel:
            yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.raw.append(line)
            try:
                self.logs.append(json.loads(line))
            except ValueError:
                continue


def echo_request(*, rows: int = 1, model: str = "echo", **fields: Any) -> pb.ModelInferRequest:
    """A good request for the models of `write_echo` and `write_slow`."""
    request = pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="IN", datatype="FP32", shape=[rows, 16])
    request.raw_input_contents.append(bytes(64 * rows))
    return request


def raw_call(channel: grpc.Channel, method: str) -> Callable[..., bytes]:
    """A call of the inference service that takes and gives bytes as they are."""
    call: Any = channel.unary_unary
    prepared: Callable[..., bytes] = call(f"/inference.GRPCInferenceService/{method}")
    return prepared


def error_of(call: Any) -> Any:
    """The error with which a started call ends, or None."""
    return call.exception()
