"""A worker from start to end: listen, start the engine, prove the models, serve, drain.

Why it exists: it is the only module that knows all the parts and their order. `run_worker` is what
programs call; it owns the process for as long as it runs (its event loop and its signals).
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_engine.client import Heartbeat, RemoteEngine, report_end, reports_its_end

from deepseek_worker.answering import Answering
from deepseek_worker.calls import Ledger
from deepseek_worker.config import WorkerConfig
from deepseek_worker.container import Cause, engine_cause, termination_cause
from deepseek_worker.drain import Drain
from deepseek_worker.fleet import Fleet, ModelStatus
from deepseek_worker.grpc_server import bind, build_server, dial_address
from deepseek_worker.health import Health
from deepseek_worker.http import HttpServer
from deepseek_worker.logs import configure_logging
from deepseek_worker.metrics import Metrics, WorkerCollector
from deepseek_worker.oip import InferenceService
from deepseek_worker.readiness import Prober
from deepseek_worker.reflection import INFERENCE_SERVICE, VLLM_SERVICE
from deepseek_worker.statistics import Statistics
from deepseek_worker.supervisor import MAX_FAILED_STARTS, Supervisor
from deepseek_worker.vllm import VllmService

__all__ = ["Worker", "WorkerReport", "run_worker"]

logger = logging.getLogger(__name__)

_CLOSE_GRACE_S = 0.5
"""Answers that are finished get this long to leave the socket."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker says when every model is ready or has failed."""

    grpc_address: str
    """Where gRPC is reached from this machine, ``host:port``."""
    http_address: str
    """Where probes and metrics are reached from this machine, ``host:port``."""
    models: tuple[ModelStatus, ...]
    """The models in the order of the configuration."""


def run_worker(
    config: WorkerConfig,
    on_ready: Callable[[WorkerReport], None] | None = None,
    *,
    on_loading: Callable[[Sequence[ModelStatus]], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; to be called from the main thread.

    Args:
        config: all settings.
        on_ready: called once, in the event loop, when every model is ready or has failed.
        on_loading: called in the event loop, with all models, after every change before that.

    Returns:
        The exit code: 0 after a stop that was asked for, 1 if the engine cannot be started.

    Raises:
        ConfigurationError: an address cannot be used; programs exit with 2.
    """
    configure_logging(log_format=config.log_format, level=config.log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_main(config, on_ready, on_loading))


async def _main(
    config: WorkerConfig,
    on_ready: Callable[[WorkerReport], None] | None,
    on_loading: Callable[[Sequence[ModelStatus]], None] | None,
) -> int:
    worker = Worker(config, on_ready=on_ready, on_loading=on_loading)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    return await worker.run()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # optional: faster, not needed
    except ImportError:
        return None
    return uvloop.new_event_loop


def _version() -> str:
    try:
        return importlib.metadata.version("deepseek")
    except importlib.metadata.PackageNotFoundError:
        return "0"


class Worker:
    """All parts of one worker."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        on_ready: Callable[[WorkerReport], None] | None = None,
        on_loading: Callable[[Sequence[ModelStatus]], None] | None = None,
    ) -> None:
        """Build the parts; `run` starts them. Needs a running event loop."""
        self._config = config
        self._on_ready = on_ready
        self._on_loading = on_loading
        self._folder = Path(tempfile.mkdtemp(prefix="deepseek-worker-"))
        socket = str(self._folder / "engine.sock")
        self._fleet = Fleet(config.models)
        self._drain = Drain()
        self._health = Health()
        self._metrics = Metrics()
        self._statistics = Statistics()
        self._supervisor = Supervisor(
            config.engine(socket),
            settings=config.supervision,
            on_lost=self._engine_lost,
        )
        self._engine = RemoteEngine(
            socket, on_heartbeat=self._heartbeat, on_disconnect=self._fleet.engine_lost
        )
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._useless = asyncio.Event()
        self._fleet.on_change(self._publish)
        self._http = self._build_http()
        self._server = self._build_grpc()
        self._report = WorkerReport("", "", ())
        self._reported = False
        self._losses = 0

    def stop(self) -> None:
        """Stop gracefully; called again, stop at once."""
        (self._stop_now if self._stop.is_set() else self._stop).set()

    async def run(self) -> int:
        """Serve until `stop` is called; gives the exit code.

        Raises:
            ConfigurationError: an address cannot be used.
        """
        try:
            prober = await self._listen()
            await self._engine.connect()
            self._publish()
            supervising = asyncio.create_task(self._supervisor.run())
            probing = asyncio.create_task(prober.run())
            stopping = asyncio.create_task(self._stop.wait())
            failing = asyncio.create_task(self._useless.wait())
            parts = {supervising, probing, stopping, failing}
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            await self._shut_down()
            await _cancel(parts)
            await self._supervisor.stop()
            for task in done:
                task.result()  # a defect in a part must not look like a clean end
            if supervising in done:
                _report(engine_cause(self._supervisor.last_status))
            return 0 if self._stop.is_set() else 1
        finally:
            await self._engine.close()
            await self._http.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _listen(self) -> Prober:
        config = self._config
        grpc_port = bind(self._server, host=config.host, port=config.grpc_port)
        http_port = await self._http.start(host=config.host, port=config.http_port)
        await self._server.start()
        self._report = WorkerReport(
            grpc_address=dial_address(config.host, grpc_port),
            http_address=dial_address(config.host, http_port),
            models=(),
        )
        logger.info(
            "the worker listens",
            extra={"host": config.host, "grpc_port": grpc_port, "http_port": http_port},
        )
        return Prober(
            self._fleet,
            target=self._report.grpc_address,
            timeout_s=config.probe_timeout_s,
            max_bytes=config.limits.max_message_bytes,
        )

    async def _shut_down(self) -> None:
        """Close the port, let the running requests finish, then end the connections."""
        logger.info("the worker stops", extra={"running": self._drain.count})
        self._drain.start()
        self._health.shut_down()
        limit = self._config.drain_s if self._stop.is_set() else 0.0
        # Every connection is told at once that it ends, so that clients go to another worker
        # while their running requests finish here.
        leaving = asyncio.create_task(self._server.stop(limit + _CLOSE_GRACE_S))
        idle = asyncio.create_task(self._drain.wait_idle(limit))
        at_once = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait({idle, at_once}, return_when=asyncio.FIRST_COMPLETED)
        await _cancel({idle, at_once})
        if self._drain.count:
            logger.warning("requests are abandoned", extra={"running": self._drain.count})
        await self._engine.close()  # what still runs is answered with UNAVAILABLE
        await self._server.stop(_CLOSE_GRACE_S)
        await leaving

    def _heartbeat(self, heartbeat: Heartbeat) -> None:
        self._supervisor.heartbeat(heartbeat)
        self._fleet.reported(heartbeat.models)
        self._statistics.reported(heartbeat.stats)

    def _engine_lost(self) -> None:
        self._fleet.engine_lost()
        self._losses += 1
        if not self._reported and self._losses >= MAX_FAILED_STARTS:
            self._end_container(engine_cause(self._supervisor.last_status))

    def _publish(self) -> None:
        """Tell health watchers what changed, and once that every model is settled."""
        statuses = self._fleet.statuses()
        ready = self._fleet.ready()
        self._health.update(
            {"": ready, INFERENCE_SERVICE: ready, VLLM_SERVICE: ready}
            | {status.name: status.phase == "READY" for status in statuses}
        )
        if not self._fleet.settled():
            if self._on_loading is not None and not self._reported:
                self._on_loading(statuses)
            return
        if not self._reported:
            self._reported = True
            self._log_settled(statuses)
        if (cause := termination_cause(statuses)) is not None:
            self._end_container(cause)

    def _log_settled(self, statuses: list[ModelStatus]) -> None:
        # The engine has logged each model that it loaded; here is what it cannot know.
        failed = [status for status in statuses if status.message]
        for status in failed:
            facts = {"model": status.name, "reason": status.reason, "detail": status.message}
            logger.error("a model is not served", extra=facts)
        ready = [status.name for status in statuses if not status.message]
        names = {"ready": ready, "failed": [status.name for status in failed]}
        logger.info("every model is settled", extra=names)
        if self._on_ready is not None:
            report = self._report
            self._on_ready(WorkerReport(report.grpc_address, report.http_address, tuple(statuses)))

    def _end_container(self, cause: Cause) -> None:
        """End a container that can serve nothing, so that its cause is seen and it is retried."""
        if reports_its_end() and not self._useless.is_set():
            _report(cause)
            self._useless.set()

    def _build_grpc(self) -> Any:
        config = self._config
        ledger = Ledger(
            fleet=self._fleet,
            drain=self._drain,
            metrics=self._metrics,
            statistics=self._statistics,
        )
        answering = Answering(
            engine=self._engine,
            fleet=self._fleet,
            ledger=ledger,
            limits=config.limits,
            default_deadline_s=config.default_deadline_s,
            stream_deadline_s=config.stream_deadline_s,
        )
        inference = InferenceService(
            answering=answering,
            drain=self._drain,
            statistics=self._statistics,
            version=_version(),
        )
        vllm = VllmService(
            answering,
            bundles={model.name: model.bundle for model in config.models},
            limits=config.limits,
            version=_version(),
        )
        return build_server(inference, self._health, limits=config.limits, vllm=vllm)

    def _build_http(self) -> HttpServer:
        self._metrics.registry.register(
            WorkerCollector(
                fleet=self._fleet,
                stats=self._engine.stats,
                devices=self._engine.devices,
                weights={model.name: model.weight for model in self._config.models},
                restarts=lambda: self._supervisor.restarts,
                processes=self._processes,
            )
        )
        return HttpServer(
            fleet=self._fleet,
            draining=lambda: self._drain.started,
            engine_silent_s=self._supervisor.silent_s,
            liveness_grace_s=self._config.supervision.liveness_grace_s,
            exposition=self._metrics.exposition,
        )

    def _processes(self) -> dict[str, int]:
        engine = self._supervisor.pid
        return {"front-end": os.getpid()} | ({"engine": engine} if engine is not None else {})


def _report(cause: Cause) -> None:
    reason, message = cause
    report_end(reason=reason, message=message)


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
