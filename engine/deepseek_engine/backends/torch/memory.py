"""A GPU's memory: the limit and the state of PyTorch's caching allocator.

Why it exists: a process that takes more of a GPU than it was given breaks its neighbours, and
memory that is reserved in unusable pieces looks free and is not. The allocator's own figures say
both. It is imported when a model runs on a GPU, and imports torch then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from deepseek_api.errors import DeviceError, ErrorCode

from deepseek_engine.backends.torch.importing import import_library
from deepseek_engine.messages import MemoryStats

__all__ = ["CudaMemory"]

MIB = 1024 * 1024
_SNAPSHOT_S = 60.0
"""A snapshot lists every block and stops the allocator meanwhile, so it is taken this seldom."""


class CudaMemory:
    """The caching allocator of one GPU."""

    def __init__(
        self, index: int, *, torch: Any = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Look at a GPU; nothing is changed.

        Args:
            index: of the GPU.
            torch: the library; None imports it.
            clock: monotonic seconds.
        """
        self._torch = torch or import_library("torch")
        self._index = index
        self._clock = clock
        self._pool_bytes = 0
        self._largest = 0
        self._looked: float | None = None

    def configure(self, size_bytes: int, *, shared: bool) -> None:
        """Limit the allocator to a size and take it now; 0 lifts the limit.

        Raises:
            DeviceError: the GPU has not so much free memory, more than that is in use already, or
                the models should not share it, which one process cannot do.
        """
        cuda = self._torch.cuda
        if not shared and size_bytes:
            raise DeviceError(
                "The models of one process share a GPU's allocator, so that each cannot have a "
                "memory pool of its own.",
                hint="Use shared=True, or serve the models by workers of their own.",
                code=ErrorCode.UNIMPLEMENTED,
                reason="Unsupported",
            )
        free, total = cuda.mem_get_info(self._index)
        if size_bytes:
            self._check(size_bytes, free, total)
        # Segments that grow leave fewer pieces of the wrong size behind.
        self._torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
        fraction = size_bytes / total if size_bytes else 1.0
        cuda.set_per_process_memory_fraction(fraction, self._index)
        self._pool_bytes = size_bytes
        self._looked = None
        missing = size_bytes - cuda.memory_reserved(self._index)
        if size_bytes and missing > 0:
            # Taken once and given back to the allocator's cache, not to the driver.
            device = f"cuda:{self._index}"
            self._torch.empty(missing, dtype=self._torch.uint8, device=device)

    def stats(self) -> MemoryStats:
        """What the allocator holds; the largest free block is looked up once a minute."""
        cuda = self._torch.cuda
        found = cuda.memory_stats(self._index)
        now = self._clock()
        if self._looked is None or now - self._looked >= _SNAPSHOT_S:
            self._looked, self._largest = now, self._largest_free()
        return MemoryStats(
            reserved_bytes=found.get("reserved_bytes.all.current", 0),
            allocated_bytes=found.get("allocated_bytes.all.current", 0),
            inactive_split_bytes=found.get("inactive_split_bytes.all.current", 0),
            largest_free_bytes=self._largest,
            alloc_retries=found.get("num_alloc_retries", 0),
            ooms=found.get("num_ooms", 0),
            pool_bytes=self._pool_bytes,
        )

    def _check(self, size_bytes: int, free: int, total: int) -> None:
        used = self._torch.cuda.memory_allocated(self._index)
        reserved = self._torch.cuda.memory_reserved(self._index)
        if size_bytes < used:
            raise _refused(
                f"A memory pool of {size_bytes // MIB} MiB is smaller than the {used // MIB} MiB "
                f"that the models on GPU {self._index} use already.",
                "Choose a larger pool, or serve fewer models.",
            )
        if size_bytes > free + reserved:
            raise _refused(
                f"A memory pool of {size_bytes // MIB} MiB cannot be had on GPU {self._index}: of "
                f"its {total // MIB} MiB {free // MIB} are free and {reserved // MIB} are held by "
                f"this process, together {(free + reserved) // MIB} MiB.",
                "Choose a smaller pool, or end what else uses the GPU.",
            )

    def _largest_free(self) -> int:
        blocks = (
            block["size"]
            for segment in self._torch.cuda.memory_snapshot()
            if segment["device"] == self._index
            for block in segment["blocks"]
            if block["state"] == "inactive"
        )
        return max(blocks, default=0)


def _refused(message: str, hint: str) -> DeviceError:
    return DeviceError(
        message, hint=hint, code=ErrorCode.RESOURCE_EXHAUSTED, reason="InsufficientMemory"
    )
