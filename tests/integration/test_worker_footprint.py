"""What a worker loads, how large it is, and what its HTTP port tells."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import bundles
from tests.support.worker import WorkerProcess, echo_request, error_of, model, until

MIB = 1024 * 1024
SPY = """
import os, sys

log = os.open(os.environ["IMPORT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
role = "engine" if "deepseek_engine" in sys.orig_argv else "front-end"
seen = set()

def spy(event, arguments):
    if event == "import":
        name = arguments[0].partition(".")[0]
        if name not in seen:
            seen.add(name)
            os.write(log, f"{role} {name}\\n".encode())

sys.addaudithook(spy)
"""


@pytest.fixture(scope="module")
def imports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File into which both processes write the name of every module that they try to import."""
    return tmp_path_factory.mktemp("imports") / "imports.txt"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, imports: Path) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("footprint")
    (folder / "sitecustomize.py").write_text(SPY)
    models = [
        model("echo", bundles.write_echo(folder / "echo"), weight=2.0),
        model("embed", bundles.write_embedding(folder / "embed")),
        model("colours", bundles.write_classifier(folder / "colours")),
    ]
    environment = {"IMPORT_LOG": str(imports), "PYTHONPATH": f"{folder}:{python_path()}"}
    with WorkerProcess(folder, models, environment=environment) as process:
        with process.wait_ready().stub() as stub:
            for _ in range(20):
                stub.ModelInfer(echo_request(rows=3), timeout=20)
        yield process


def python_path() -> str:
    return os.environ.get("PYTHONPATH", "")


def imported(imports: Path, role: str) -> set[str]:
    lines = [line.split() for line in imports.read_text().splitlines()]
    return {name for who, name in lines if who == role}


def test_the_front_end_imports_no_runtime(worker: WorkerProcess, imports: Path) -> None:
    names = imported(imports, "front-end")
    heavy = {"numpy", "torch", "transformers", "onnxruntime", "onnx", "tokenizers", "PIL", "timm"}
    assert "deepseek_worker" in names, "the spy worked"
    assert not names & heavy


def test_the_engine_never_imports_torch(worker: WorkerProcess, imports: Path) -> None:
    names = imported(imports, "engine")
    assert "onnxruntime" in names, "the spy worked"
    assert not names & {"torch", "transformers", "timm", "torchvision", "onnx", "grpc", "aiohttp"}


def test_the_front_end_stays_small(worker: WorkerProcess) -> None:
    size = worker.metrics()['deepseek_process_resident_memory_bytes{process="front-end"}']
    assert 10 * MIB < size <= 120 * MIB


def test_metrics_tell_requests_latency_batches_and_shares(worker: WorkerProcess) -> None:
    samples = worker.metrics()
    echo = 'model="echo",precision="fp32"'
    assert samples[f'deepseek_requests_total{{code="OK",{echo},reason=""}}'] >= 20
    assert samples[f"deepseek_request_duration_seconds_count{{{echo}}}"] >= 20
    assert samples[f'deepseek_request_duration_seconds_bucket{{le="60.0",{echo}}}'] >= 20
    assert samples[f"deepseek_queue_seconds_count{{{echo}}}"] >= 20
    assert samples[f"deepseek_compute_seconds_sum{{{echo}}}"] > 0
    assert samples['deepseek_requests_running{model="echo"}'] == 0
    assert samples['deepseek_requests_waiting{model="echo"}'] == 0
    assert samples['deepseek_weight{model="echo"}'] == 2
    assert samples['deepseek_model_ready{model="embed"}'] == 1
    assert samples["deepseek_engine_restarts_total"] == 0
    assert samples['deepseek_process_resident_memory_bytes{process="engine"}'] > 10 * MIB


def test_metrics_of_the_engine_follow_its_heartbeats(worker: WorkerProcess) -> None:
    def batches() -> float:
        return worker.metrics().get('deepseek_batch_rows_count{model="echo"}', 0)

    until(lambda: batches() >= 20, what="the heartbeat after the requests")
    samples = worker.metrics()
    assert samples['deepseek_batch_rows_bucket{le="4.0",model="echo"}'] >= 20
    assert samples['deepseek_batch_rows_sum{model="echo"}'] >= 60
    assert samples['deepseek_device_seconds_total{model="echo"}'] > 0
    releases = [v for k, v in samples.items() if k.startswith("deepseek_batch_release_total{")]
    assert sum(releases) >= 20


def test_unknown_models_do_not_make_new_series(worker: WorkerProcess) -> None:
    with worker.stub() as stub:
        for name in ("a", "b"):
            error = error_of(stub.ModelInfer.future(echo_request(model=name), timeout=20))
            assert error.code().name == "NOT_FOUND"
    lines = [name for name in worker.metrics() if '_total{code="NOT_FOUND"' in name]
    assert len(lines) == 1
    assert 'model=""' in lines[0]


@pytest.mark.parametrize(
    ("path", "status"), [("/startupz", "started"), ("/livez", "alive"), ("/readyz", "ready")]
)
def test_probes_answer_with_a_reason(worker: WorkerProcess, path: str, status: str) -> None:
    code, body = worker.get(path)
    assert (code, json.loads(body)["status"]) == (200, status)


def test_other_paths_say_what_this_port_answers(worker: WorkerProcess) -> None:
    code, body = worker.get("/v2/models")
    assert code == 404
    assert "/readyz" in json.loads(body)["error"]
    assert worker.get("/readyz", "POST")[0] == 405


def test_request_content_is_never_logged(worker: WorkerProcess) -> None:
    with worker.stub() as stub:
        request = echo_request(model="embed", id="secret-id")
        request.inputs[0].name = "secret-name"
        assert error_of(stub.ModelInfer.future(request, timeout=20)) is not None
    assert "secret" not in "".join(worker.raw)
