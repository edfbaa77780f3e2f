"""``engine.set_auto_precision(threshold=0.8)`` as users write it, and the same on a server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deepseek import ConfigurationError, InferenceEngine, PrecisionError
from deepseek_protos import inference_pb2 as pb

from tests.support import bundles
from tests.support.twins import WIDTH, values, write_twins
from tests.support.worker import WorkerProcess, model, until


def test_above_the_threshold_new_batches_use_the_lower_precision(tmp_path: Path) -> None:
    folder = write_twins(tmp_path / "m", layers=12)
    sample = {"IN": values(rows=32)}
    with InferenceEngine(model_path=str(folder), precision="fp32", threads=1) as engine:
        engine.set_auto_precision(threshold=0.8)
        first = engine.infer(sample)
        assert first.parameters["precision"] == "fp32"
        # A busy share of 80 % cannot be had for certain on a machine that is busy elsewhere.
        engine.set_auto_precision(threshold=0.01, dwell_s=0.0)
        seen = [engine.infer(sample).parameters["precision"] for _ in range(200)]
        assert seen[-1] == "int8"
        assert engine.device_stats.load > 0.01
        engine.set_auto_precision(threshold=None)
        assert engine.infer(sample).parameters["precision"] == "fp32"


def test_a_bundle_without_a_lower_precision_says_what_to_do(tmp_path: Path) -> None:
    with InferenceEngine(bundles.write_echo(tmp_path / "m"), threads=1) as engine:
        with pytest.raises(PrecisionError, match="no lower precision") as caught:
            engine.set_auto_precision(threshold=0.8)
        assert "precision auto" in str(caught.value)
        with pytest.raises(ConfigurationError, match="above 0 and below 1"):
            engine.set_auto_precision(threshold=80)


def test_a_server_lowers_the_precision_and_its_metrics_say_so(tmp_path: Path) -> None:
    folder = write_twins(tmp_path / "m", layers=12)
    policy = {"threshold": 0.05, "resume": 0.01, "dwell_s": 0.0}
    served = model("m", folder, precision="fp32", auto_precision=policy)
    with WorkerProcess(tmp_path, [served], load_window_s=0.5) as worker, worker.stub() as stub:
        worker.wait_ready()
        request = pb.ModelInferRequest(model_name="m")
        request.inputs.add(name="IN", datatype="FP32", shape=[32, WIDTH])
        request.raw_input_contents.append(values(rows=32).tobytes())
        with ThreadPoolExecutor(4) as callers:
            calls = list(callers.map(lambda _: stub.ModelInfer(request, timeout=30), range(200)))
        lowered = 'deepseek_precision_switches_total{model="m"}'
        metrics = until(lambda: worker.metrics() if worker.metrics().get(lowered) else None)
    seen = [call.parameters["precision"].string_param for call in calls]
    assert set(seen) <= {"fp32", "int8"}
    assert "int8" in seen
    assert metrics['deepseek_variant_rows_total{model="m",variant="int8"}'] > 0
    assert 'deepseek_device_load_ratio{device="cpu"}' in metrics
    assert metrics['deepseek_model_memory_bytes{model="m"}'] > 2_000_000
