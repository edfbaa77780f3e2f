"""A device's memory pool: its size, who shares it, and how much of it is in pieces.

Why it exists: a pool is set in the same words on every device and shows the same figures, whether
it is a block of pages on the processor or an allocator's cache on a GPU. The processor's pool is
here; a GPU's lies with its back end and is imported only for such a device.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from deepseek_api.errors import ConfigurationError, DeviceError, ErrorCode

from deepseek_engine import hardware
from deepseek_engine.backends.devices import parse_device
from deepseek_engine.messages import MemoryStats
from deepseek_engine.pools import BufferPool, Buffers

__all__ = ["MIB", "DeviceMemory", "HostMemory", "check_pool_size", "open_device_memory"]

MIB = 1024 * 1024
_RESERVE_BYTES = 64 * MIB
_CUDA = "deepseek_engine.backends.torch.memory"


class DeviceMemory(Protocol):
    """The memory of one device."""

    def configure(self, size_bytes: int, *, shared: bool) -> None:
        """Set the pool's size; 0 takes the pool away.

        Raises:
            DeviceError: the device has not so much memory.
        """
        ...

    def stats(self) -> MemoryStats:
        """What is in use now."""
        ...


def check_pool_size(size_mib: int) -> int:
    """The size of a pool in bytes.

    Raises:
        ConfigurationError: it is not a positive whole number of MiB.
    """
    # bool is an int, and a pool of True MiB is a slip.
    if isinstance(size_mib, bool) or not isinstance(size_mib, int) or size_mib < 1:
        raise ConfigurationError(
            f"The size of the memory pool is {size_mib!r}.",
            hint="Give a whole number of MiB, at least 1; 2048 is 2 GiB.",
        )
    return size_mib * MIB


def open_device_memory(device: str) -> DeviceMemory:
    """The memory of a device other than the processor; to be called when a model runs on it.

    Raises:
        DeviceError: nothing here manages the memory of such a device.
    """
    kind, index = parse_device(device)
    if kind != "cuda":
        raise DeviceError(
            f"The memory of the device '{device}' cannot be managed.",
            hint="Memory pools exist for cpu and cuda.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="Unsupported",
        )
    module = importlib.import_module(_CUDA)
    return cast(DeviceMemory, module.CudaMemory(index or 0))


class HostMemory:
    """Pools of pages on the processor."""

    def __init__(self, *, root: Path = Path("/")) -> None:
        """Manage nothing yet.

        Args:
            root: where ``/proc`` and ``/sys`` are.
        """
        self._root = root
        self._buffers: dict[str, Buffers] = {}
        self._pools: list[BufferPool] = []
        self._size = 0
        self._shared = True

    def buffers(self, model: str) -> Buffers:
        """Where the arrays of a model come from; the same object every time.

        Raises:
            DeviceError: the model should have a pool of its own, and there is no memory for it.
        """
        found = self._buffers.get(model)
        if found is None:
            found = self._buffers[model] = Buffers()
            if self._size and self._shared:
                found.pool = self._pools[0]
            elif self._size:
                self._check(self._size, 1, freed=0)
                found.pool = self._pool()
        return found

    def configure(self, size_bytes: int, *, shared: bool) -> None:
        """One pool for all models, or one of this size for each; see `DeviceMemory.configure`.

        The former pool's memory returns to the system when its last array is gone.
        """
        count = 1 if shared else max(1, len(self._buffers))
        if size_bytes:
            self._check(size_bytes, count, freed=sum(pool.size_bytes for pool in self._pools))
        for buffers in self._buffers.values():
            buffers.pool = None
        self._pools.clear()
        self._size, self._shared = size_bytes, shared
        if size_bytes and shared:
            self._pool()
        for buffers in self._buffers.values():
            if size_bytes:
                buffers.pool = self._pools[0] if shared else self._pool()

    def stats(self) -> MemoryStats:
        """The sum over all pools; zeros without one."""
        found = [pool.stats() for pool in self._pools]
        return MemoryStats(
            reserved_bytes=sum(s.reserved_bytes for s in found),
            allocated_bytes=sum(s.allocated_bytes for s in found),
            inactive_split_bytes=sum(s.inactive_split_bytes for s in found),
            largest_free_bytes=max((s.largest_free_bytes for s in found), default=0),
            ooms=sum(s.ooms for s in found),
            pool_bytes=sum(s.pool_bytes for s in found),
        )

    def _pool(self) -> BufferPool:
        try:
            pool = BufferPool(self._size)
        except MemoryError:
            raise _too_large(self._size, 1, "and the system refused it") from None
        self._pools.append(pool)
        return pool

    def _check(self, size_bytes: int, count: int, *, freed: int) -> None:
        left = hardware.detect_memory(root=self._root).usable + freed
        if size_bytes * count + _RESERVE_BYTES > left:
            reserve = f"with a reserve of {_RESERVE_BYTES // MIB} MiB"
            raise _too_large(size_bytes, count, f"{reserve}; {left // MIB} MiB are left here")


def _too_large(size_bytes: int, count: int, rest: str) -> DeviceError:
    each = f"{count} memory pools of" if count > 1 else "A memory pool of"
    return DeviceError(
        f"{each} {size_bytes // MIB} MiB cannot be had: that is {size_bytes * count // MIB} MiB "
        f"{rest}.",
        hint="Choose a smaller pool, or share one between the models.",
        code=ErrorCode.RESOURCE_EXHAUSTED,
        reason="InsufficientMemory",
    )
