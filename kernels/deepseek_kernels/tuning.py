"""Find the tile sizes of this GPU: ``python -m deepseek_kernels.tuning --out FOLDER``.

Why it exists: the best tiles differ by GPU and shape, and only measuring finds them. For each
kernel and shape the search starts from the configured tiles, varies one size at a time and moves
to what was fastest until nothing is faster. Each candidate is timed as serving runs it: many
launches in one CUDA graph, on as many copies of the weight as overflow the cache. The dense 16-bit
product of the shape is timed beside it, so that the dispatcher never takes a slower kernel for a
faster one.

The search and the files are plain Python and know no GPU; only ``GraphTimer`` does. What can be
tuned is in ``tunables``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
import triton

from deepseek_kernels.configuration import (
    FOLDER_VARIABLE,
    KernelConfig,
    Measurement,
    gpu_slug,
    load_table,
)
from deepseek_kernels.errors import KernelArgumentError, KernelUnavailableError
from deepseek_kernels.tunables import KERNELS, Steps

__all__ = ["GraphTimer", "Timer", "main", "search", "tune", "write_table"]

_GROUPS = list(dict.fromkeys(group for kernel in KERNELS.values() for group in kernel.shapes))


class Timer(Protocol):
    """Something that times a call."""

    def __call__(self, calls: Sequence[Callable[[], object]]) -> float | None:
        """Microseconds of one of ``calls`` (the same work on different memory), or None.

        None means that the GPU cannot run it, for example because its tiles do not fit.
        """
        ...


class GraphTimer:
    """Times by replaying a CUDA graph of all calls; the median of ``rounds`` replays."""

    def __init__(self, rounds: int = 20) -> None:
        self._rounds = rounds

    def __call__(self, calls: Sequence[Callable[[], object]]) -> float | None:
        """Capture, replay and take the median; see ``Timer``."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        try:
            with torch.cuda.stream(stream):
                calls[0]()  # compiles
            stream.synchronize()
        except (triton.runtime.errors.OutOfResources, triton.CompilationError, RuntimeError):
            return None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        graph.replay()
        times = [self._replay(graph) for _ in range(self._rounds)]
        return statistics.median(times) * 1000.0 / len(calls)

    @staticmethod
    def _replay(graph: torch.cuda.CUDAGraph) -> float:
        make: Callable[..., torch.cuda.Event] = torch.cuda.Event
        first, last = make(enable_timing=True), make(enable_timing=True)
        first.record()
        graph.replay()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))


def search(
    start: KernelConfig, steps: Steps, time: Callable[[KernelConfig], float | None]
) -> tuple[KernelConfig, float]:
    """Vary one size at a time from ``start`` until nothing is faster.

    Args:
        start: where to begin; it need not run.
        steps: values to try for each field.
        time: microseconds of a configuration, None if it does not run.

    Returns:
        The fastest configuration found and its microseconds.

    Raises:
        KernelUnavailableError: nothing ran, from ``start`` and its neighbours.
    """
    known: dict[KernelConfig, float] = {}

    def microseconds(config: KernelConfig) -> float:
        if config not in known:
            found = time(config)
            known[config] = float("inf") if found is None else found
        return known[config]

    best = start
    microseconds(best)
    while True:
        before = best
        for field, values in steps.items():
            candidates = [best, *(replace(best, **{field: value}) for value in values)]
            best = min(candidates, key=microseconds)  # the first of equals, so best stays
        if best == before:
            break
    if known[best] == float("inf"):
        raise KernelUnavailableError(f"none of {len(known)} configurations near {start} runs here")
    return best, known[best]


def tune(
    kernel: str, m: int, n: int, k: int, *, timer: Timer, device: torch.device, gpu: str
) -> Measurement:
    """Search the best tiles of one kernel and shape, and time the dense product beside it.

    Raises:
        KernelArgumentError: an unknown kernel, or a shape that it does not compute.
        KernelUnavailableError: no configuration runs, or the dense product does not.
    """
    if kernel not in KERNELS:
        raise KernelArgumentError(
            f"kernel: {kernel!r} is unknown; give one of {', '.join(KERNELS)}"
        )
    tunable = KERNELS[kernel]
    least, largest = tunable.limits
    if not least <= m <= largest:
        raise KernelArgumentError(f"m: {m} is not for {kernel}; give {least} to {largest}")
    work = tunable.prepare(m, n, k, device)

    def time(config: KernelConfig) -> float | None:
        try:
            return timer(work.calls(config))
        except KernelArgumentError:
            return None

    config, found = search(load_table(gpu).config(kernel, m, n, k), tunable.steps, time)
    dense = _timed(timer, work.dense, "the dense product")
    conversion = _timed(timer, work.conversions, "dequantizing") if work.conversions else 0.0
    return Measurement(kernel, m, n, k, config, found, dense, conversion)


def _timed(timer: Timer, calls: Sequence[Callable[[], object]], what: str) -> float:
    found = timer(calls)
    if found is None:  # a time of 0 would be believed
        raise KernelUnavailableError(f"{what} of this shape does not run here")
    return found


def write_table(path: Path, gpu: str, source: str, measured: Iterable[Measurement]) -> None:
    """Write measurements to a file of configurations; those of other shapes in it stay.

    Raises:
        KernelArgumentError: the file exists and is something else.
    """
    content: dict[str, Any] = {"gpu": gpu, "source": source, "kernels": {}, "measured": []}
    if path.exists():
        try:
            content |= json.loads(path.read_text())
        except ValueError as error:
            raise KernelArgumentError(f"{path.name}: is no JSON ({error}); remove it") from error
    entries = {_key(entry): entry for entry in content["measured"]}
    entries |= {_key(entry): entry for entry in map(dataclasses.asdict, measured)}
    content |= {"gpu": gpu, "source": source, "measured": [entries[key] for key in sorted(entries)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def _key(entry: Mapping[str, Any]) -> tuple[str, int, int, int]:
    return entry["kernel"], entry["n"], entry["k"], entry["m"]


def _jobs(
    kernels: Iterable[str], groups: Iterable[str], tokens: Sequence[int] | None
) -> Iterator[tuple[str, int, int, int]]:
    """Kernel, M, N and K of everything that is asked for and that the kernel computes."""
    for kernel in kernels:
        tunable = KERNELS[kernel]
        least, largest = tunable.limits
        for n, k in (shape for group in groups for shape in tunable.shapes.get(group, ())):
            for m in tokens or tunable.tokens:
                if least <= m <= largest:
                    yield kernel, m, n, k


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune on the first GPU; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_kernels.tuning", description=__doc__)
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), default=list(KERNELS))
    parser.add_argument("--shapes", nargs="+", choices=_GROUPS, default=_GROUPS)
    parser.add_argument("--tokens", nargs="+", type=int, help="numbers of tokens (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the file of this GPU")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("There is no CUDA device here; run this on the GPU to be tuned.\n")
        return 2
    name = torch.cuda.get_device_name()
    path = chosen.out / f"{gpu_slug(name)}.json"
    source = f"measured on {name}, torch {torch.__version__}, triton {triton.__version__}"
    device, gpu = torch.device("cuda"), gpu_slug(name)
    for kernel, m, n, k in _jobs(chosen.kernels, chosen.shapes, chosen.tokens):
        try:
            found = tune(kernel, m, n, k, timer=GraphTimer(), device=device, gpu=gpu)
        except KernelUnavailableError as error:  # such as fp8 on a GPU that has none
            sys.stderr.write(f"{kernel} {m}x{n}x{k}: {error}\n")
            continue
        write_table(path, name, source, [found])
        ratio = found.dense_microseconds / found.microseconds
        sys.stdout.write(f"{kernel} {m}x{n}x{k}: {ratio:.2f} of dense, {found.config}\n")
    sys.stdout.write(f"{path}\nUse it with {FOLDER_VARIABLE}={chosen.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
