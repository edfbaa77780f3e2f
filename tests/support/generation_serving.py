"""A whole worker in one event loop, over real sockets, with a scripted generator.

What differs from a worker's two processes: engine and front end share the loop, so that a test can
script the generator and look at the engine's gauges. Between them is the unix socket, before them
the gRPC port.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from deepseek_engine.client import Heartbeat, RemoteEngine
from deepseek_engine.engine import Engine
from deepseek_engine.generation import loaded
from deepseek_engine.messages import ModelState
from deepseek_engine.server import EngineServer
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc, vllm_engine_pb2_grpc
from deepseek_worker.answering import Answering
from deepseek_worker.calls import Ledger
from deepseek_worker.config import Limits
from deepseek_worker.drain import Drain
from deepseek_worker.encoding import set_parameter
from deepseek_worker.fleet import Fleet
from deepseek_worker.grpc_server import bind, build_server
from deepseek_worker.health import Health
from deepseek_worker.metrics import Metrics
from deepseek_worker.oip import InferenceService
from deepseek_worker.statistics import Statistics
from deepseek_worker.vllm import VllmService

from tests.support import bundles
from tests.support.engine import config, eventually
from tests.support.scripted_generator import Script, opened, write_generating


@dataclass
class Serving:
    """What a test needs of a running worker."""

    script: Script
    engine: Engine
    server: EngineServer
    remote: RemoteEngine
    fleet: Fleet
    drain: Drain
    metrics: Metrics
    target: str
    oip: Any
    vllm: Any

    def at_rest(self) -> bool:
        """Whether no sequence is left anywhere."""
        stats = self.engine.stats()["counter"]
        assert stats.generation is not None
        gauges = (stats.waiting, stats.running, stats.generation.blocks_used)
        return gauges == (0, 0, 0) and self.remote.in_flight == 0 and self.drain.count == 0

    @property
    def running(self) -> int:
        """Sequences of the scripted generator."""
        return self.engine.stats()["counter"].running


@contextlib.asynccontextmanager
async def serving(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, stream_deadline_s: float = 30.0
) -> AsyncIterator[Serving]:
    """A worker with the models ``counter`` (scripted), ``echo`` and ``embed``."""
    script = Script()
    monkeypatch.setattr(loaded, "open_generator", lambda *_: opened(script))
    models = (
        write_generating(folder / "counter"),
        bundles.write_echo(folder / "echo"),
        bundles.write_embedding(folder / "embed"),
    )
    with tempfile.TemporaryDirectory(prefix="gen-") as short:
        socket = f"{short}/engine.sock"
        settings = config(*models, socket=socket)
        fleet, drain, metrics = Fleet(settings.models), Drain(), Metrics()

        def beat(heartbeat: Heartbeat) -> None:
            fleet.reported(heartbeat.models)

        async with Engine(settings) as engine:
            server = EngineServer(engine, socket, heartbeat_s=0.05)
            await server.start()
            remote = RemoteEngine(socket, on_heartbeat=beat, on_disconnect=fleet.engine_lost)
            await remote.connect()
            await eventually(
                lambda: [i.state for i in remote.models().values()] == [ModelState.READY] * 3
            )
            statistics = Statistics()
            answering = Answering(
                engine=remote,
                fleet=fleet,
                ledger=Ledger(fleet=fleet, drain=drain, metrics=metrics, statistics=statistics),
                limits=Limits(),
                default_deadline_s=30.0,
                stream_deadline_s=stream_deadline_s,
            )
            grpc_server = build_server(
                InferenceService(
                    answering=answering, drain=drain, statistics=statistics, version="1"
                ),
                Health(),
                limits=Limits(),
                vllm=VllmService(
                    answering,
                    bundles={model.name: model.bundle for model in settings.models},
                    limits=Limits(),
                    version="1",
                ),
            )
            target = f"127.0.0.1:{bind(grpc_server, host='127.0.0.1', port=0)}"
            await grpc_server.start()
            try:
                async with grpc.aio.insecure_channel(target) as channel:
                    yield Serving(
                        script, engine, server, remote, fleet, drain, metrics, target,
                        inference_pb2_grpc.GRPCInferenceServiceStub(channel),
                        vllm_engine_pb2_grpc.VllmEngineStub(channel),
                    )  # fmt: skip
            finally:
                script.gate.set()
                await grpc_server.stop(0)
                await remote.close()
                await server.close()


def ask(
    text: str | None = "5",
    *,
    tokens: list[int] | None = None,
    request_id: str = "",
    **parameters: Any,
) -> pb.ModelInferRequest:
    """A request to the scripted generator: text, or tokens."""
    request = pb.ModelInferRequest(model_name="counter", id=request_id)
    given: Mapping[str, Any] = {"max_tokens": 3, **parameters}
    for name, value in given.items():
        if value is not None:
            set_parameter(request.parameters[name], value)
    if tokens is not None:
        tensor = request.inputs.add(name="input_ids", datatype="INT64", shape=[1, len(tokens)])
        tensor.contents.int64_contents.extend(tokens)
    elif text is not None:
        tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(text.encode())
    return request


def tokens_of(answers: list[pb.ModelInferResponse]) -> list[int]:
    """The tokens of an answer's parts."""
    return [
        token
        for answer in answers
        for output in answer.outputs
        if output.name == "token_ids"
        for token in output.contents.int64_contents
    ]
