"""Importing the SDK is cheap, and its public list is complete."""

from __future__ import annotations

import json
import subprocess
import sys

import deepseek
import pytest
from deepseek_api import errors

HEAVY = {"numpy", "grpc", "google", "torch", "onnxruntime", "transformers", "pydantic", "typer"}
SCRIPT = """
import json, sys, time
started = time.process_time()
import deepseek
seconds = time.process_time() - started
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_import_loads_no_heavy_package_and_takes_less_than_0_3_s() -> None:
    measured = [
        json.loads(subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True).stdout)
        for _ in range(3)
    ]
    assert HEAVY.isdisjoint(measured[0][1])
    assert min(seconds for seconds, _ in measured) < 0.3


def test_building_the_command_line_loads_nothing_that_only_a_command_needs() -> None:
    script = (
        "import json, sys; import deepseek.cli._commands, deepseek.cli.infer_compat; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    loaded = set(json.loads(done.stdout))
    assert "deepseek_api" in loaded
    unwanted = {"deepseek_engine", "deepseek_worker", "deepseek_kernels", "kubernetes"}
    assert loaded.isdisjoint(unwanted | HEAVY - {"pydantic", "typer"})


@pytest.mark.parametrize("name", deepseek.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(deepseek, name) is not None


def test_every_exception_of_the_api_is_public() -> None:
    kinds = {n for n in errors.__all__ if n.endswith("Error")}
    assert kinds <= set(deepseek.__all__)
    assert all(getattr(deepseek, name) is getattr(errors, name) for name in kinds)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        _ = deepseek.Clinet


def test_sdk_and_tritonclient_live_in_one_process() -> None:
    script = (
        "import deepseek, tritonclient.grpc as t; deepseek.Client; deepseek.AsyncClient; "
        "t.InferInput('a', [1], 'FP32'); from deepseek_protos import inference_pb2; print('both')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr
