"""Kernels run in Triton's interpreter here, and other processes do not notice."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def _double(source: tl.tensor, target: tl.tensor, n: tl.tensor, BLOCK: tl.constexpr) -> None:
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, 2 * tl.load(source + at, mask=at < n), mask=at < n)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "0", reason="this run is for a GPU")
def test_a_kernel_runs_on_cpu_tensors() -> None:
    source, target = torch.arange(5.0), torch.full((8,), -1.0)
    _double[(2,)](source, target, 5, BLOCK=4)
    assert target.tolist() == [0, 2, 4, 6, 8, -1, -1, -1]


def test_a_process_that_a_test_starts_compiles() -> None:
    code = "import triton; print(triton.knobs.runtime.interpret)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout.strip() == "False", done.stderr
