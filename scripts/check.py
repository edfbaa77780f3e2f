"""Everything that must hold before a commit, in one command: ``make check``.

Runs every check even when an earlier one failed, prints what each took, and shows the output of
those that failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    "client",
    "crds",
    "deploy",
    "engine",
    "kernels",
    "operator",
    "protos",
    "worker",
    "tests",
    "benchmarks",
    "examples",
    "scripts",
]
BIN = Path(sys.executable).parent


def checks() -> dict[str, list[str]]:
    """Commands by the name under which they are reported."""
    python, present = sys.executable, [name for name in SOURCES if (ROOT / name).exists()]
    return {
        "format": [str(BIN / "ruff"), "format", "--check", *present],
        "lint": [str(BIN / "ruff"), "check", *present],
        "types": [str(BIN / "mypy"), *present],
        "import contracts": [str(BIN / "lint-imports"), "--no-cache"],
        "generated CRD": [python, "-m", "deepseek_api.crdgen", "--check"],
        "generated reference": [python, "-m", "deepseek_api.docgen", "--check"],
        "generated stubs": [python, "-m", "deepseek_protos.generate", "--check"],
        "generated performance page": [python, "-m", "benchmarks.report", "--check"],
        "house rules": [python, "scripts/house.py"],
    }


def run(name: str, command: list[str]) -> bool:
    """Run one check and report it; return whether it passed."""
    started = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    passed = done.returncode == 0
    print(
        f"{'ok  ' if passed else 'FAIL'} {name} ({time.perf_counter() - started:.1f} s)", flush=True
    )
    if not passed:
        print((done.stdout + done.stderr).rstrip(), flush=True)
    return passed


def main() -> int:
    """Run all checks; return the exit status."""
    results = [run(name, command) for name, command in checks().items()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
