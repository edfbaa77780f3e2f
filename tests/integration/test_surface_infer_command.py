"""``deepseek-infer`` with the flags that users know, as the installed program."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from deepseek._here import nvidia_gpus

from tests.support import bundles
from tests.support.command import environment

PROGRAM = Path(sys.executable).with_name("deepseek-infer")

no_gpu_here = pytest.mark.skipif(
    bool(nvidia_gpus()), reason="asserts the error of a machine without an NVIDIA GPU"
)


def infer(arguments: str, *, timeout: float = 120) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(PROGRAM), *shlex.split(arguments)],
        capture_output=True, text=True, timeout=timeout, env=environment(),
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@no_gpu_here
def test_medical_ct_on_a_gpu_that_is_not_there_is_refused_with_the_way_out() -> None:
    ran = infer("--model medical_ct --precision mixed --batch_size 16 --device cuda:0")
    assert ran == (
        1,
        "",
        "Error: The device 'cuda:0' is not available: this machine has no NVIDIA GPU, or this "
        "process cannot see one.\n  Use the device 'cpu'.\n",
    )


def test_medical_ct_has_no_weights_until_they_are_named() -> None:
    ran = infer("--model medical_ct --precision mixed --batch_size 16 --device cpu")
    assert ran == (
        1,
        "",
        "Error: The catalog has no weights for the model 'medical_ct'.\n"
        "  Name your own with file:// or hf://, or try the pipeline with random ones: "
        "--weights random (in Python: random_weights=True).\n",
    )


@pytest.mark.timeout(400)
def test_medical_ct_runs_with_random_weights_and_says_so() -> None:
    code, out, err = infer(
        "--model medical_ct --precision mixed --batch_size 16 --device cpu --weights random "
        "--seconds 0.1",
        timeout=380,
    )
    assert code == 0, err
    assert "mixed (variant mixed-" in out
    assert "The weights of this model are random: its answers mean nothing." in err


@no_gpu_here
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out() -> None:
    ran = infer("--model minilm --precision mixed --batch_size 16 --device cuda:0")
    assert ran == (
        1,
        "",
        "Error: The device 'cuda:0' is not available: this machine has no NVIDIA GPU, or this "
        "process cannot see one.\n  Use the device 'cpu'.\n",
    )


@pytest.mark.parametrize(
    "flags",
    ["", "--enable_tensor_core", "--max_batch_size 8", "--max_batch_size 70%"],
    ids=["plain", "tensor cores", "number", "share of memory"],
)
def test_the_flags_run_a_model_on_the_processor(tmp_path: Path, flags: str) -> None:
    bundle = bundles.write_embedding(tmp_path / "model")
    code, out, err = infer(
        f"--model {bundle} --precision fp32 --batch_size 16 --device cpu --seconds 0.1 {flags}"
    )
    assert code == 0, err
    assert "SAMPLES/S" in out
