"""Small parts: settings, draining, addresses, counters and descriptions."""

from __future__ import annotations

import asyncio
import math
import socket
from pathlib import Path

import pytest
from deepseek_api.errors import ConfigurationError
from deepseek_engine.client import ModelConfig, ModelInfo, ModelState, TensorSpec
from deepseek_worker.config import WorkerConfig, load_config
from deepseek_worker.decoding import quoted
from deepseek_worker.descriptions import model_config, model_index
from deepseek_worker.drain import Drain
from deepseek_worker.elements import DATATYPES
from deepseek_worker.fleet import Fleet
from deepseek_worker.grpc_server import check_port, dial_address
from deepseek_worker.metrics import resident_bytes

MODELS = (ModelConfig(name="a", bundle="b"),)


def test_the_engine_gets_the_settings_of_the_worker() -> None:
    config = WorkerConfig(models=MODELS, threads=3, memory_limit_bytes=7, engine_options={"x": 1})
    engine = config.engine("/socket")
    assert (engine.models, engine.socket, engine.threads) == (MODELS, "/socket", 3)
    assert (engine.memory_limit_bytes, engine.options) == (7, {"log_level": "INFO", "x": 1})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"grpc_port": -1}, "grpc_port is -1"),
        ({"grpc_port": 9, "http_port": 9}, "are both 9"),
        ({"drain_s": -1.0}, "drain_s is -1"),
        ({"memory_pool_mib": -1}, "memory_pool_mib is -1"),
        ({"load_window_s": 0.0}, "load_window_s is 0"),
        ({"models": ()}, "No model is configured"),
        ({"models": (ModelConfig(name="a", bundle="b", weight=0.0),)}, "weight .* 'a' is 0"),
        ({"models": (ModelConfig(name="a", bundle="b", weight=math.inf),)}, "'a' is inf"),
        ({"models": (ModelConfig(name="a", bundle="b", weight=math.nan),)}, "'a' is nan"),
        ({"models": (ModelConfig(name="a", bundle="b", max_batch_size=0),)}, "max_batch_size"),
        ({"models": (ModelConfig(name="a", bundle="b", max_queue_size=-1),)}, "max_queue_size"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        WorkerConfig(**({"models": MODELS} | settings))  # type: ignore[arg-type]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent.json cannot be read: No such file"):
        load_config(tmp_path / "absent.json")


async def test_draining_waits_for_the_last_request() -> None:
    drain = Drain()
    assert await drain.wait_idle(0.0)
    with drain.running():
        assert not await drain.wait_idle(0.01)
        waiter = asyncio.create_task(drain.wait_idle(5.0))
        await asyncio.sleep(0)
        assert not waiter.done()
    assert await waiter


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0.0.0.0", "127.0.0.1:1"),
        ("::", "[::1]:1"),
        ("10.0.0.1", "10.0.0.1:1"),
        ("fe80::1", "[fe80::1]:1"),
        ("localhost", "localhost:1"),
    ],
)
def test_a_worker_dials_itself_where_it_listens(host: str, address: str) -> None:
    assert dial_address(host, 1) == address


def test_a_free_port_passes_the_check() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    check_port(host="127.0.0.1", port=port, purpose="gRPC", flag="--grpc-port")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a", "'a'"), ("a\n\x1b[31m", "'a\\n\\x1b[31m'"), ("é", "'é'"), ("x" * 90, f"'{'x' * 80}…'")],
)
def test_names_of_clients_are_shown_escaped_and_shortened(name: str, shown: str) -> None:
    assert quoted(name) == shown


def test_every_datatype_has_a_place_in_the_configuration() -> None:
    kinds = sorted(DATATYPES)
    info = ModelInfo(
        name="a",
        state=ModelState.READY,
        max_batch_size=4,
        inputs=tuple(TensorSpec(kind, kind, (-1, 2)) for kind in kinds),
    )
    config = model_config(info)
    assert [list(tensor.dims) for tensor in config.input] == [[2]] * len(kinds)
    assert len({tensor.data_type for tensor in config.input}) == len(kinds)


def test_the_index_of_ready_models_leaves_out_the_others() -> None:
    fleet = Fleet([*MODELS, ModelConfig(name="c", bundle="d")])
    info = ModelInfo(name="a", state=ModelState.READY)
    failed = ModelInfo(name="c", state=ModelState.FAILED, reason="Bad", message="It is bad.")
    fleet.reported({"a": info, "c": failed})
    fleet.proven("a", generation=0)
    everything = model_index(fleet.statuses(), only_ready=False).models
    assert [(m.name, m.state, m.reason) for m in everything] == [
        ("a", "READY", ""),
        ("c", "UNAVAILABLE", "Bad: It is bad."),
    ]
    assert [m.name for m in model_index(fleet.statuses(), only_ready=True).models] == ["a"]


def test_the_memory_of_a_process_that_is_gone_is_unknown() -> None:
    assert resident_bytes(2**22 + 1) is None
