"""What gRPC, two processes and a queue cost, beside the runtime called directly in a loop."""

from __future__ import annotations

import contextlib
import io
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from deepseek_engine.prepare.samples import photographs

from benchmarks.driver import Child, children
from benchmarks.encoder_cpu import token_input
from benchmarks.inputs import write_arrays
from benchmarks.machine import Stamp
from benchmarks.models import bert, efficientnet, minilm, plain_int8
from benchmarks.peers import ORT_INT8, SPINNING
from benchmarks.record import Record
from benchmarks.servers import Server, cpu_seconds, worker_command
from benchmarks.settings import Run
from benchmarks.stats import Rounds, percentile
from tests.support.bundles import write_echo

__all__ = ["run"]

CALLERS = 16
BERT_REQUESTS = 64
PACKAGES = ("onnxruntime", "grpcio", "uvloop", "pyzmq", "msgspec", "protobuf")
SENTENCE = "The committee will meet again on Thursday to discuss the second draft of the proposal."


@dataclass(frozen=True, slots=True)
class Load:
    """A model under load, and how many requests make a turn."""

    title: str
    model: str
    one: int
    """Requests of a turn with one caller."""
    many: int
    """Requests of a turn with 16 callers."""


LOADS = (
    Load("identity", "identity", one=500, many=2000),
    Load("MiniLM auto", "minilm", one=80, many=320),
    Load("EfficientNet auto", "efficientnet", one=40, many=160),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of callers gave."""

    ms: tuple[float, ...]
    per_second: float
    front_end_us: float
    """Processor time of the front end for a request, microseconds."""


def run(given: Run) -> list[Record]:
    """Measure BERT-base beside the direct loop, then small models alone."""
    stamp = Stamp.take("grpc_overhead", PACKAGES, settings=SPINNING)
    return [*_bert(stamp, given), *_small_models(stamp, given)]


def _bert(stamp: Stamp, given: Run) -> list[Record]:
    model = bert(given.say)
    graph = plain_int8(model, given.say)
    arrays = write_arrays(given.folder / "bert.npz", [token_input()])
    requests = max(CALLERS, given.effort.calls(BERT_REQUESTS))
    direct = {"kind": "session", "graph": graph, "arrays": arrays, "threads": given.threads}
    served = {"name": "bert", "bundle": str(model.folder), "precision": "int8"}
    given.say(f"BERT-base: {given.effort.rounds} rounds of {requests} requests each")
    with (
        Server(worker_command(given.folder, [served])) as server,
        _callers(server, {"bert": {"arrays": arrays}}) as callers,
        children({ORT_INT8: direct}) as peers,
    ):
        turns, loops = [], []
        for _ in range(given.effort.rounds):
            turns.append(_turn(server, callers["bert"], requests=requests, callers=CALLERS))
            loops.append(peers[ORT_INT8].turn(passes=max(1, requests // 2))["ms"])
    many = f"BERT-base int8, {CALLERS} callers"
    peer = Rounds(tuple(1e3 / statistics.mean(loop) for loop in loops), sum(map(len, loops)))
    return [
        stamp.versus(
            many,
            "throughput",
            "requests/s",
            subject=_rounds(turns, lambda turn: turn.per_second),
            peer=ORT_INT8,
            peer_rounds=peer,
            better="higher",
        ),
        *_latencies(stamp, many, turns),
        _cpu(stamp, many, turns),
    ]


def _small_models(stamp: Stamp, given: Run) -> list[Record]:
    picture = given.folder / "picture.jpg"
    picture.write_bytes(_jpeg())
    echo = write_echo(given.folder / "identity")
    bundles = {
        "identity": echo,
        "minilm": minilm(given.say).folder,
        "efficientnet": efficientnet(given.say).folder,
    }
    arrays = write_arrays(given.folder / "row.npz", [{"IN": np.ones((1, 16), np.float32)}])
    requests: dict[str, dict[str, Any]] = {
        "identity": {"arrays": arrays},
        "minilm": {"texts": [SENTENCE]},
        "efficientnet": {"image": str(picture)},
    }
    models = [{"name": name, "bundle": str(path)} for name, path in bundles.items()]
    records = []
    with (
        Server(worker_command(given.folder, models)) as server,
        _callers(server, requests) as callers,
    ):
        for load in LOADS:
            given.say(f"{load.title}: 1 and {CALLERS} callers")
            records += _measure(stamp, server, callers[load.model], load, given)
    return records


def _measure(stamp: Stamp, server: Server, child: Child, load: Load, given: Run) -> list[Record]:
    one, many = [], []
    for _ in range(given.effort.rounds):
        count = given.effort.calls(load.one)
        one.append(_turn(server, child, requests=count, callers=1))
        count = max(CALLERS, given.effort.calls(load.many))
        many.append(_turn(server, child, requests=count, callers=CALLERS))
    rate = _rounds(many, lambda turn: turn.per_second)
    crowd = f"{load.title}, {CALLERS} callers"
    return [
        *_latencies(stamp, f"{load.title}, 1 caller", one),
        stamp.alone(crowd, "throughput", "requests/s", subject=rate),
        *_latencies(stamp, crowd, many),
        _cpu(stamp, crowd, many),
    ]


@contextlib.contextmanager
def _callers(
    server: Server, requests: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Child]]:
    """A client process for each model."""
    specs = {
        name: {"kind": "callers", "target": server.target, "model": name, **request}
        for name, request in requests.items()
    }
    with children(specs) as started:
        yield started


def _turn(server: Server, child: Child, *, requests: int, callers: int) -> Turn:
    before = cpu_seconds(server.front_end)
    answer = child.turn(requests=requests, callers=callers)
    used = cpu_seconds(server.front_end) - before
    # The child sends one more request, before its clock starts.
    per_request = used / (requests + 1) * 1e6
    return Turn(tuple(answer["ms"]), requests / answer["elapsed_s"], per_request)


def _rounds(turns: list[Turn], value: Any) -> Rounds:
    return Rounds(tuple(value(turn) for turn in turns), sum(len(turn.ms) for turn in turns))


def _latencies(stamp: Stamp, case: str, turns: list[Turn]) -> list[Record]:
    median = _rounds(turns, lambda turn: statistics.median(turn.ms))
    worst = _rounds(turns, lambda turn: percentile(turn.ms, 0.99))
    return [
        stamp.alone(case, "latency", "ms", subject=median),
        stamp.alone(case, "latency p99", "ms", subject=worst),
    ]


def _cpu(stamp: Stamp, case: str, turns: list[Turn]) -> Record:
    used = _rounds(turns, lambda turn: turn.front_end_us)
    return stamp.alone(case, "front end processor time", "µs/request", subject=used)


def _jpeg() -> bytes:
    """A photograph as a caller would send it."""
    stream = io.BytesIO()
    photographs()[0].save(stream, "JPEG", quality=90)
    return stream.getvalue()
