"""Buffers that are in memory before they are needed.

Why it exists: the system gives a large array as pages that do not exist yet, and each of them costs
a fault when it is first written; the C library gives arrays above 32 MiB back after every use, so
that every batch pays again. A pool takes its pages once, at the start, and lends pieces of them.
It is for the large inputs of a batch. Outputs of ONNX Runtime stay where they are: its own arena
keeps their pages, and measured it has no faults to save.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import mmap
import threading
import weakref
from collections import deque

import numpy as np
import numpy.typing as npt

from deepseek_engine.codec import Array
from deepseek_engine.messages import MemoryStats

__all__ = ["SMALL_BYTES", "BufferPool", "Buffers"]

SMALL_BYTES = 64 * 1024
"""Arrays below this never come from a pool."""
_ALIGNMENT = 64


class BufferPool:
    """One block of memory whose pages exist, lent in pieces.

    Arrays are taken on a device's thread and may be dropped on any thread. A piece returns when the
    last view of its array is gone.
    """

    def __init__(self, size_bytes: int) -> None:
        """Take the memory from the system; every page is there when this returns.

        Raises:
            MemoryError: the system does not give so much.
        """
        try:
            self._block = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise MemoryError(f"no block of {size_bytes} bytes") from error
        with contextlib.suppress(AttributeError, OSError):
            # Large pages where the system has them: small ones made copies up to twice as slow.
            self._block.madvise(mmap.MADV_HUGEPAGE)
        np.frombuffer(self._block, dtype=np.uint8)[:: mmap.PAGESIZE] = 0
        self.size_bytes = size_bytes
        self._lock = threading.Lock()
        # Free pieces as offsets and their lengths, by offset.
        self._offsets = [0]
        self._lengths = {0: size_bytes}
        self._allocated = 0
        self._misses = 0
        # Filled by the collector, which may run anywhere, also inside `take`: it must not lock.
        self._returned: deque[tuple[int, int]] = deque()

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array | None:
        """An array with undefined content, or None when no free piece is large enough."""
        kind = np.dtype(dtype)
        count = math.prod(shape)
        length = -(-max(1, count * kind.itemsize) // _ALIGNMENT) * _ALIGNMENT
        with self._lock:
            self._collect()
            offset = self._cut(length)
        if offset is None:
            return None
        flat = np.frombuffer(self._block, dtype=kind, count=count, offset=offset)
        # Views keep this array alive, and with it the piece.
        weakref.finalize(flat, self._returned.append, (offset, length)).atexit = False
        return flat.reshape(shape)

    def stats(self) -> MemoryStats:
        """What is lent, and in how many pieces the rest lies."""
        with self._lock:
            self._collect()
            largest = max(self._lengths.values(), default=0)
            free = self.size_bytes - self._allocated
            return MemoryStats(
                reserved_bytes=self.size_bytes,
                allocated_bytes=self._allocated,
                inactive_split_bytes=free - largest,
                largest_free_bytes=largest,
                ooms=self._misses,
                pool_bytes=self.size_bytes,
            )

    def _collect(self) -> None:
        while self._returned:
            offset, length = self._returned.popleft()
            self._allocated -= length
            index = bisect.bisect(self._offsets, offset)
            if index < len(self._offsets) and offset + length == self._offsets[index]:
                length += self._lengths.pop(self._offsets.pop(index))
            if index and (before := self._offsets[index - 1]) + self._lengths[before] == offset:
                self._lengths[before] += length
            else:
                self._offsets.insert(index, offset)
                self._lengths[offset] = length

    def _cut(self, length: int) -> int | None:
        fitting = [o for o in self._offsets if self._lengths[o] >= length]
        if not fitting:
            self._misses += 1
            return None
        # The tightest piece, so that large ones stay whole.
        offset = min(fitting, key=self._lengths.__getitem__)
        rest = self._lengths.pop(offset) - length
        index = bisect.bisect_left(self._offsets, offset)
        if rest:
            self._offsets[index] = offset + length
            self._lengths[offset + length] = rest
        else:
            del self._offsets[index]
        self._allocated += length
        return offset


class Buffers:
    """Where one model's arrays come from: a pool when there is one, else the C library."""

    def __init__(self) -> None:
        self.pool: BufferPool | None = None

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An array with undefined content; from the system when the pool has no room for it."""
        pool, kind = self.pool, np.dtype(dtype)
        if pool is not None and math.prod(shape) * kind.itemsize >= SMALL_BYTES:
            array = pool.take(shape, kind)
            if array is not None:
                return array
        return np.empty(shape, kind)
