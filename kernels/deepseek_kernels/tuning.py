"""Find the tile sizes of this GPU: ``python -m deepseek_kernels.tuning --out FOLDER``.

Why it exists: the best tiles differ by GPU and shape, and only measuring finds them. For each
kernel and shape the search starts from the configured tiles, varies one size at a time and moves
to what was fastest until nothing is faster. Each candidate is timed as serving runs it: many
launches in one CUDA graph, on as many copies of the weight as overflow the cache. The dense 16-bit
product of the shape is timed beside it, so that the dispatcher never takes a slower kernel for a
faster one.

The search and the files are plain Python and know no GPU; only ``GraphTimer`` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from deepseek_kernels.ops import dequantize as dequantizing
from deepseek_kernels.ops import fp8_block, fp8_row, w4a16, w8a8, w8a16
from deepseek_kernels.quantize import quantize_weight
from deepseek_kernels.weights import QuantizedWeight

__all__ = ["KERNELS", "SHAPES", "GraphTimer", "Timer", "main", "search", "tune", "write_table"]

SHAPES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "llama-8b": ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)),
    "square": ((8192, 8192),),
    "bert-base": ((2304, 768), (3072, 768)),
}
"""N and K of the weights that benchmarks use."""

Steps = Mapping[str, Sequence[int]]
Launch = Callable[..., torch.Tensor]

_GEMV: Steps = {
    "block_n": (2, 4, 8, 16),
    "block_k": (256, 512, 1024, 2048),
    "split_k": (1, 2, 4, 8),
    "num_warps": (2, 4, 8),
}
_SMALL: Steps = {
    "block_m": (16, 32, 64),
    "block_n": (64, 128),
    "block_k": (64, 128, 256, 512),
    "split_k": (1, 2, 4, 8),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
}
_LARGE: Steps = {
    "block_m": (64, 128, 256),
    "block_n": (64, 128, 256),
    "block_k": (64, 128, 256),
    "group_m": (4, 8, 16),
    "num_warps": (4, 8),
    "num_stages": (3, 4, 5),
}


@dataclass(frozen=True, slots=True)
class Tunable:
    """A kernel that can be tuned."""

    launch: Launch
    """Called with activations, weight and ``config=``."""
    weight: Mapping[str, Any]
    """Arguments of ``quantize_weight``."""
    tokens: tuple[int, ...]
    steps: Steps


KERNELS: dict[str, Tunable] = {
    "w4a16_gemv": Tunable(w4a16.launch, {"scheme": "int4", "group_size": 128}, (1, 2, 4, 8), _GEMV),
    "w4a16_gemm": Tunable(
        w4a16.launch, {"scheme": "int4", "group_size": 128}, (16, 32, 64), _SMALL
    ),
    "w8a16_gemv": Tunable(w8a16.launch, {"scheme": "int8"}, (1, 2, 4, 8), _GEMV),
    "w8a16_gemm": Tunable(w8a16.launch, {"scheme": "int8"}, (16, 32, 64), _SMALL),
    "w8a8": Tunable(w8a8.launch, {"scheme": "int8"}, (128, 256, 1024, 4096), _LARGE),
    "fp8_row": Tunable(fp8_row.launch, {"scheme": "fp8"}, (128, 256, 1024, 4096), _LARGE),
    "fp8_block": Tunable(fp8_block.launch, {"scheme": "fp8-block"}, (128, 256, 1024, 4096), _LARGE),
}


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
        KernelArgumentError: an unknown kernel.
        KernelUnavailableError: no configuration runs.
    """
    if kernel not in KERNELS:
        raise KernelArgumentError(
            f"kernel: {kernel!r} is unknown; give one of {', '.join(KERNELS)}"
        )
    tunable = KERNELS[kernel]
    generator = torch.Generator().manual_seed(n + k)
    values = torch.randn(n, k, generator=generator) / k**0.5
    weight = quantize_weight(values, **tunable.weight)
    weight = (weight.tiled() if weight.scheme == "int4" else weight).to(device)
    x = torch.randn(m, k, generator=generator).to(device, torch.bfloat16)
    dense = values.to(device, torch.bfloat16)
    copies = _copies(weight)

    def time(config: KernelConfig) -> float | None:
        try:
            return timer([_call(tunable.launch, x, copy, config) for copy in copies])
        except KernelArgumentError:
            return None

    config, found = search(load_table(gpu).config(kernel, m, n, k), tunable.steps, time)
    rotated = [dense.clone() for _ in range(max(1, _OVERFLOW // dense.nbytes))]
    products = [_product(x, copy) for copy in rotated]
    conversions = [_conversion(copy) for copy in copies]
    return Measurement(
        kernel, m, n, k, config, found, timer(products) or 0.0, timer(conversions) or 0.0
    )


_OVERFLOW = 256 << 20
"""Bytes that no GPU's cache holds."""


def _copies(weight: QuantizedWeight) -> list[QuantizedWeight]:
    count = min(64, max(1, _OVERFLOW // weight.nbytes))
    return [replace(weight, data=weight.data.clone()) for _ in range(count)]


def _call(
    launch: Launch, x: torch.Tensor, weight: QuantizedWeight, config: KernelConfig
) -> Callable[[], object]:
    return lambda: launch(x, weight, config=config)


def _product(x: torch.Tensor, dense: torch.Tensor) -> Callable[[], object]:
    return lambda: torch.nn.functional.linear(x, dense)


def _conversion(weight: QuantizedWeight) -> Callable[[], object]:
    return lambda: dequantizing.launch(weight, torch.bfloat16)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune on the first GPU; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_kernels.tuning", description=__doc__)
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), default=list(KERNELS))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, help="numbers of tokens (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the file of this GPU")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("There is no CUDA device here; run this on the GPU to be tuned.\n")
        return 2
    name = torch.cuda.get_device_name()
    path = chosen.out / f"{gpu_slug(name)}.json"
    source = f"measured on {name}, torch {torch.__version__}, triton {triton.__version__}"
    for kernel in chosen.kernels:
        for n, k in (shape for group in chosen.shapes for shape in SHAPES[group]):
            for m in chosen.tokens or KERNELS[kernel].tokens:
                device, gpu = torch.device("cuda"), gpu_slug(name)
                found = tune(kernel, m, n, k, timer=GraphTimer(), device=device, gpu=gpu)
                write_table(path, name, source, [found])
                ratio = found.dense_microseconds / found.microseconds
                sys.stdout.write(f"{kernel} {m}x{n}x{k}: {ratio:.2f} of dense, {found.config}\n")
    sys.stdout.write(f"{path}\nUse it with {FOLDER_VARIABLE}={chosen.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
