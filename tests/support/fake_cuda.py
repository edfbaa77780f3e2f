"""A stand-in for the CUDA runtime of torch: tensors are real and on the processor.

`FakeTorch` is torch with another ``cuda``: streams order nothing, a graph remembers the calls that
were made while it captured and makes them again when it is replayed, into the same outputs. Memory
figures are plain numbers that a test sets. Use it only where a GPU would be needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch

MIB = 1024 * 1024


class FakeGraph:
    """Makes the recorded calls again."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], Any, Mapping[str, Any]]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for function, static, outputs in self.calls:
            for name, tensor in function(static).items():
                outputs[name].copy_(tensor)

    def reset(self) -> None:
        self.calls.clear()


class FakeCuda:
    """What the back end uses of ``torch.cuda``."""

    OutOfMemoryError = torch.cuda.OutOfMemoryError

    def __init__(self, *, total: int = 80 * 1024 * MIB, free: int = 79 * 1024 * MIB) -> None:
        self.total, self.free = total, free
        self.allocated = self.reserved = 0
        self.fraction: dict[int, float] = {}
        self.stats: dict[str, int] = {}
        self.snapshots = 0
        self.segments: list[dict[str, Any]] = []
        self.emptied = 0
        self.capturing: FakeGraph | None = None
        self.graphs: list[FakeGraph] = []
        self.capture_modes: list[str] = []

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def graph_pool_handle(self) -> tuple[int, int]:
        return (0, 1)

    def Stream(self, device: object) -> Any:
        return SimpleNamespace(wait_stream=lambda other: None)

    def current_stream(self, device: object) -> Any:
        return self.Stream(device)

    def stream(self, stream: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def CUDAGraph(self) -> FakeGraph:
        self.graphs.append(FakeGraph())
        return self.graphs[-1]

    @contextlib.contextmanager
    def graph(
        self, graph: FakeGraph, pool: object = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        self.capture_modes.append(capture_error_mode)
        self.capturing = graph
        try:
            yield
        finally:
            self.capturing = None

    def recorded(self, call: Callable[[Any], Mapping[str, Any]]) -> Callable[[Any], Any]:
        """The call, remembered by the graph that captures meanwhile."""

        def record(static: Any) -> Mapping[str, Any]:
            outputs = call(static)
            if self.capturing is not None:
                self.capturing.calls.append((call, static, outputs))
            return outputs

        return record

    def empty_cache(self) -> None:
        self.emptied += 1

    def mem_get_info(self, device: object) -> tuple[int, int]:
        return (self.free, self.total)

    def memory_allocated(self, device: object) -> int:
        return self.allocated

    def memory_reserved(self, device: object) -> int:
        return self.reserved

    def set_per_process_memory_fraction(self, fraction: float, device: int) -> None:
        assert isinstance(fraction, float)
        assert 0 <= fraction <= 1
        self.fraction[device] = fraction

    def memory_stats(self, device: object) -> dict[str, int]:
        return self.stats

    def memory_snapshot(self) -> list[dict[str, Any]]:
        self.snapshots += 1
        return self.segments


class FakeTorch:
    """torch, with a CUDA that is not there."""

    def __init__(self, cuda: FakeCuda | None = None) -> None:
        self.cuda = cuda or FakeCuda()
        self.settings: list[str] = []
        self._C = SimpleNamespace(_accelerator_setAllocatorSettings=self.settings.append)
        self.allocations: list[tuple[int, str]] = []

    def empty(self, size: int, *, dtype: Any, device: str) -> None:
        assert dtype is torch.uint8
        self.allocations.append((size, device))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
