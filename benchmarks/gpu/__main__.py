"""``python -m benchmarks.gpu``: everything, or the parts named, within nine minutes.

Prints what every part came to. Without a GPU it says so and exits with 2.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import peers
from benchmarks.gpu.goals import ORDER, PARTS
from benchmarks.gpu.running import Case, Cases, Machine, run_parts
from benchmarks.gpu.timing import CudaTimer

ROOT = Path(__file__).resolve().parent.parent.parent
BUDGET_S = 510.0
"""Leaves half a minute of nine for starting and for the case that runs."""
VERSIONS = ("torch", "triton", "transformers", "gemlite", "torchao", "liger-kernel", "bitsandbytes")
NO_GPU = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; the exit status is 1 only when a part failed."""
    arguments = _parse(argv)
    # The machine has this repository and nothing of it installed.
    sys.path[:0] = [str(ROOT / "kernels")]
    peers.use_carried()
    os.environ.setdefault("TRITON_CACHE_DIR", str(ROOT / ".cache" / "triton"))
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError:
        print("torch is not installed.", file=sys.stderr)
        return NO_GPU
    if not torch.cuda.is_available():
        print("There is no CUDA device here; nothing was measured.", file=sys.stderr)
        return NO_GPU
    outcomes = run_parts(
        {name: _cases(name) for name in arguments.parts},
        CudaTimer(torch),
        _machine(torch),
        arguments.results,
        budget_s=arguments.budget,
        again=arguments.again,
        say=lambda text: print(text, flush=True),
    )
    for outcome in outcomes:
        print(f"{outcome.part:5} {outcome.state} {outcome.detail}")
    return int(any(outcome.state == "failed" for outcome in outcomes))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--parts", type=_parts, default=ORDER, help=f"of {','.join(ORDER)}; default: all"
    )
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds")
    parser.add_argument("--again", action="store_true", help="measure finished parts again")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args(argv)


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'} is no part")
    return names


def _cases(name: str) -> Cases:
    def cases() -> Iterable[Case]:
        module, _, function = PARTS[name].module.partition(":")
        found: Iterable[Case] = getattr(
            importlib.import_module(f"benchmarks.gpu.{module}"), function
        )()
        return found

    return cases


def _machine(torch: Any) -> Machine:
    properties = torch.cuda.get_device_properties(0)
    return Machine(
        device=f"{properties.name} ({properties.total_memory >> 30} GiB)",
        versions={"python": platform.python_version(), "cuda": str(torch.version.cuda)}
        | {name: found for name in VERSIONS if (found := _version(name))},
        commit=_commit(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit, or what a copy without git was told in ``DEEPSEEK_COMMIT``."""
    told = os.environ.get("DEEPSEEK_COMMIT")
    if told:
        return told
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
