"""Memory does not grow with the checkpoint: measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
MIB = 1 << 20

pytestmark = pytest.mark.timeout(180)


def quantized(folder: Path, scheme: str, scale: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.large_checkpoint", str(folder), scheme, str(scale)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_7b_shaped_checkpoint_needs_less_than_4_gb(tmp_path: Path) -> None:
    """All layers of a 7B decoder with an eighth of every width, in a 64th of its bytes.

    At full size a process needs the libraries and a piece of rows at a time. A piece is bounded by
    a number of values (`stream.CHUNK`), so what it grows by here, beyond the headers, does not
    depend on the size. The full size is the same command with the scale 1.
    """
    found = quantized(tmp_path, "int4-g128", 8)
    assert found["checkpoint_bytes"] > 200 * MIB
    assert found["grown_bytes"] < 200 * MIB
    assert found["peak_bytes"] < 4_000_000_000
    assert found["linear_share_of_fp32"] <= 0.14
