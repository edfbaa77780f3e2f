"""OpenAI's HTTP interface in front of a worker: the gateway ``smg`` as a child process.

Why it exists: the gateway turns HTTP into the worker's own protocol (`VllmEngine`): completions,
chat where the model has a template, server-sent events. It is somebody else's program; here it is
started, watched, started again when it ends, and ended with the worker.
"""

from __future__ import annotations

import importlib.util
import logging
import socket
import subprocess
import sys
import threading
import time

from deepseek_api.errors import ConfigurationError

__all__ = ["Gateway", "check_gateway"]

logger = logging.getLogger(__name__)

_PAUSES_S = (0.5, 30.0)
_STABLE_S = 60.0
_END_S = 5.0


def check_gateway() -> None:
    """Say before anything is prepared that there is no gateway.

    Raises:
        ConfigurationError: it is not installed.
    """
    if importlib.util.find_spec("smg") is None:
        raise ConfigurationError(
            "OpenAI's HTTP interface comes from the gateway 'smg', which is not installed.",
            hint="Install it with: pip install 'deepseek[openai]'.",
            reason="GatewayMissing",
        )


class Gateway:
    """A running gateway."""

    def __init__(self, *, worker: str, host: str, port: int, log_level: str) -> None:
        """Prepare.

        Args:
            worker: the worker's gRPC address, ``host:port``.
            host: address to listen on.
            port: of HTTP.
            log_level: the worker's.
        """
        self._arguments = [
            sys.executable, "-m", "deepseek._gateway_child", "launch",
            "--worker-urls", f"grpc://{worker}",
            "--host", host,
            "--port", str(port),
            # The gateway always serves metrics; nobody outside this machine is to see them.
            "--prometheus-host", "127.0.0.1",
            "--prometheus-port", str(_free_port()),
            "--log-level", {"debug": "debug", "info": "warn", "warning": "warn"}.get(
                log_level, "error"
            ),
        ]  # fmt: skip
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name="gateway", daemon=True)

    def start(self) -> None:
        """Start it, and again whenever it ends by itself."""
        self._thread.start()

    def stop(self) -> None:
        """End it; returns when it is gone."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
        if self._thread.is_alive():
            self._thread.join(_END_S + 1)

    def _supervise(self) -> None:
        pause, longest = _PAUSES_S
        while not self._stopping.is_set():
            started = time.monotonic()
            process = self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                # What serves prints its table on standard output; logs belong beside the worker's.
                stdout=sys.stderr.fileno(),
                start_new_session=True,  # Ctrl-C must not reach it: the worker drains first.
            )
            while process.poll() is None and not self._stopping.wait(0.2):
                pass
            if self._stopping.is_set():
                _end(process)
                return
            logger.error("the gateway ended", extra={"status": process.returncode})
            if time.monotonic() - started > _STABLE_S:
                pause = _PAUSES_S[0]
            self._stopping.wait(pause)
            pause = min(longest, pause * 2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
