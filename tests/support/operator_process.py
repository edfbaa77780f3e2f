"""A real operator process for tests, against any API server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.support.apiserver import free_port
from tests.support.worker import until

__all__ = ["ROOT", "OperatorProcess", "metric_value"]

ROOT = Path(__file__).resolve().parents[2]


class OperatorProcess:
    """``python -m deepseek_operator``; a context manager.

    Args:
        kubeconfig: settings file of the cluster and the user.
        folder: an empty folder for settings and logs.
        settings: of the operator, camelCase.
    """

    def __init__(
        self, kubeconfig: Path, folder: Path, settings: Mapping[str, Any] | None = None
    ) -> None:
        self._folder = folder
        self._health, self._metrics = free_port(), free_port()
        self._log = folder / "operator.log"
        config = folder / "operator.yaml"
        ports = {"healthPort": self._health, "metricsPort": self._metrics}
        config.write_text(yaml.safe_dump({**(settings or {}), **ports}))
        path = [str(ROOT / "operator"), str(ROOT / "crds"), os.environ.get("PYTHONPATH", "")]
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "DEEPSEEK_OPERATOR_CONFIG": str(config),
            "PYTHONPATH": os.pathsep.join(part for part in path if part),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; it may not be ready yet."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deepseek_operator"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> int:
        """End the process as Kubernetes does; gives its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(10)

    def wait(self, *, timeout_s: float = 30.0) -> int:
        """The exit code, once it ends by itself."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def text(self) -> str:
        """What it logged."""
        return self._log.read_text(errors="replace")

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The records that it logged."""
        found = []
        for line in self.text.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def health(self) -> int:
        """Status of ``/healthz``; 0 when nothing answers."""
        try:
            url = f"http://127.0.0.1:{self._health}/healthz"
            with urllib.request.urlopen(url, timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait_healthy(self) -> Self:
        """Wait until it watches every kind."""

        def healthy() -> bool:
            assert self.running, f"the operator ended:\n{self.text[-4000:]}"
            return self.health() == 200

        until(healthy, timeout_s=60, what="a healthy operator")
        return self

    def metrics_text(self) -> str:
        """All its metrics as they are served."""
        url = f"http://127.0.0.1:{self._metrics}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            return str(response.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric with these labels."""
        return metric_value(self.metrics_text(), name, **labels)


def metric_value(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of a metric with these labels in Prometheus' text format."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return sum(
        float(value)
        for sample, _, value in samples
        if sample.partition("{")[0] == name and all(part in sample for part in wanted)
    )
