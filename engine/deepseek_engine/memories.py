"""The memory of all devices of one engine.

Why it exists: a pool may be configured before any model is loaded or changed while models answer,
and it must be made on the right thread: pages take time to fill, and a GPU's allocator belongs to
the thread that runs its models. Which device manages its memory how is `device_memory`'s business.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from deepseek_engine.device import Device
from deepseek_engine.device_memory import (
    DeviceMemory,
    HostMemory,
    check_pool_size,
    open_device_memory,
)
from deepseek_engine.messages import EngineConfig, MemoryStats
from deepseek_engine.pools import Buffers

__all__ = ["Memories"]

_HOST = "cpu"


class Memories:
    """Memory by device; to be used from the engine's event loop."""

    def __init__(self, config: EngineConfig, *, root: Path) -> None:
        """Manage nothing yet; the configured pool is made for the first model of its device.

        Args:
            config: size of the pool, and whether models share it.
            root: where ``/proc`` and ``/sys`` are.
        """
        self._size = check_pool_size(config.memory_pool_mib) if config.memory_pool_mib else 0
        self._shared = config.memory_pool_shared
        self._host = HostMemory(root=root)
        self._known: dict[str, DeviceMemory] = {}

    @property
    def host_bytes(self) -> int:
        """What the pools on the processor hold."""
        return self._host.stats().pool_bytes

    def stats(self, device: str) -> MemoryStats | None:
        """What is in use on a device; None while no model runs on it."""
        memory = self._known.get(device)
        return memory.stats() if memory is not None else None

    async def before(self, model: str, device: str) -> Buffers:
        """Make the processor's pool if this is its first model; gives the model's buffers.

        Raises:
            DeviceError: there is no memory for the pool.
        """
        if device == _HOST and _HOST not in self._known:
            if self._size:
                await self._fill(self._size, shared=self._shared)
            self._known[_HOST] = self._host
        return self._host.buffers(model)

    async def after(self, name: str, device: Device) -> None:
        """Set up the memory of a device on which the first model was opened.

        Raises:
            DeviceError: the device has not so much memory.
        """
        if name not in self._known:
            memory = open_device_memory(name)
            if self._size:
                await device.call(lambda: memory.configure(self._size, shared=self._shared))
            self._known[name] = memory

    async def configure(self, size_mib: int, *, shared: bool, devices: dict[str, Device]) -> None:
        """Change the pools of all devices that have models.

        Raises:
            ConfigurationError: the size is not a positive whole number of MiB.
            DeviceError: a device has not so much memory; its former pool stays then.
        """
        size = check_pool_size(size_mib)
        for name, memory in self._known.items():
            if name == _HOST:
                await self._fill(size, shared=shared)
            else:
                await devices[name].call(
                    lambda memory=memory: memory.configure(size, shared=shared)  # type: ignore[misc]
                )
        self._size, self._shared = size, shared

    async def _fill(self, size: int, *, shared: bool) -> None:
        # Filling gigabytes of pages takes a second or more, in which the loop must go on.
        await asyncio.to_thread(self._host.configure, size, shared=shared)
