"""CUDA graphs of a module: the runtime that `GraphRunner` captures with.

Why it exists: it is the one place that knows how torch captures and replays. Inputs are static:
a batch is written into pinned memory of the host, copied from there into the graph's own tensors,
and the graph is replayed. All graphs of a model share one memory pool, because only one of them
runs at a time. It decides nothing: which shapes are captured is the runner's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deepseek_engine.backends.torch.buckets import Bucket
from deepseek_engine.backends.torch.graphs import CaptureError
from deepseek_engine.codec import Array

__all__ = ["CudaGraphs", "Eager", "to_arrays"]

Call = Callable[[Mapping[str, Any]], Mapping[str, Any]]
_WARM_RUNS = 3
"""Runs before a capture: libraries choose algorithms and compilers compile in the first ones."""


def to_arrays(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Tensors as arrays on the host, floating point as fp32; waits for the device."""
    return {
        name: (t.float() if t.is_floating_point() else t).cpu().numpy()
        for name, t in outputs.items()
    }


class Eager:
    """Runs without graphs; the whole runtime of the processor."""

    def __init__(self, torch: Any, call: Call, device: str) -> None:
        self._torch = torch
        self._call = call
        self._device = device

    def capture(self, bucket: Bucket, example: Mapping[str, Array]) -> CudaGraph:
        """Never succeeds.

        Raises:
            CaptureError: always.
        """
        raise CaptureError("disabled", "this device has no graphs")

    def eager(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute without a graph."""
        torch = self._torch
        # Copied: torch refuses arrays that must not be written, such as views on a message.
        tensors = {n: torch.tensor(np.array(a)).to(self._device) for n, a in inputs.items()}
        with torch.inference_mode():
            return to_arrays(self._call(tensors))


class CudaGraphs(Eager):
    """Captures CUDA graphs of one module."""

    def __init__(self, torch: Any, call: Call, device: str, *, pinned: bool = True) -> None:
        """Prepare to capture.

        Args:
            torch: the library.
            call: the module as a function.
            device: for example ``cuda:0``.
            pinned: whether the host's side of the inputs is page-locked, so that its copy to the
                device needs no second one.
        """
        super().__init__(torch, call, device)
        self._pinned = pinned
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, bucket: Bucket, example: Mapping[str, Array]) -> CudaGraph:
        """Capture the module for one shape.

        Raises:
            CaptureError: ``out-of-memory``, or ``capture-failed`` for anything that torch refuses
                to capture, such as a copy to the host inside the module.
        """
        torch = self._torch
        try:
            with torch.inference_mode():
                return self._capture(example)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise CaptureError("out-of-memory", str(error)) from error
        # Kernels, compilers and the runtime refuse in ways of their own, and none may fail a batch.
        except Exception as error:
            raise CaptureError("capture-failed", str(error)) from error

    def _capture(self, example: Mapping[str, Array]) -> CudaGraph:
        torch = self._torch
        host = {n: self._host(array) for n, array in example.items()}
        static = {n: tensor.to(self._device, copy=True) for n, tensor in host.items()}
        # Warming up on another stream keeps its allocations out of the graph's pool.
        side, current = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_RUNS):
                self._call(static)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on meanwhile: models are opened in one while another answers requests.
        # In the default mode each of their allocations would fail and spoil the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = self._call(static)
        return CudaGraph(torch, graph, host, static, outputs)

    def _host(self, array: Array) -> Any:
        torch = self._torch
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._pinned else tensor.clone()


class CudaGraph:
    """One captured shape."""

    def __init__(
        self,
        torch: Any,
        graph: Any,
        host: Mapping[str, Any],
        static: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> None:
        self._torch = torch
        self._graph: Any = graph
        self._host = host
        self._static = static
        self._outputs = outputs
        self.inputs: dict[str, Array] = {name: t.numpy() for name, t in host.items()}

    def launch(self) -> Mapping[str, Any]:
        """Copy the inputs over and compute, without waiting.

        Returns:
            Tensors on the device; the next launch overwrites them. Until the device has come so
            far, the inputs must not be written.
        """
        with self._torch.inference_mode():
            for name, tensor in self._host.items():
                self._static[name].copy_(tensor, non_blocking=True)
            self._graph.replay()
            return self._outputs

    def replay(self) -> Mapping[str, Array]:
        """Copy the inputs over, compute, and wait for the outputs."""
        with self._torch.inference_mode():
            # Copying to the host waits for the device: the inputs may be written again after it.
            return to_arrays(self.launch())

    def close(self) -> None:
        """Give the graph's memory back to the pool."""
        if self._graph is not None:
            self._graph.reset()
        self._graph = None
        self._static = self._outputs = {}
