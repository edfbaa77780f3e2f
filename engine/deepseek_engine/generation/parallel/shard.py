"""What a rank runs: one part of a model that obeys commands.

Why it exists: groups of ranks start, watch and restart processes whatever these compute; decoders
and encoders are parts behind this protocol. Also how a command's tensors become bytes and back.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import torch

from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.control import Buffer, Command

__all__ = ["Shard", "ShardLoader", "find_loader", "pack", "unpack"]


class Shard(Protocol):
    """One rank's part of a model, loaded."""

    @property
    def facts(self) -> Mapping[str, int]:
        """Numbers that the leader must know of every rank."""
        ...

    def run(self, name: str, fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """Obey a command; every rank of a group is given the same ones in the same order."""
        ...


ShardLoader = Callable[[Mapping[str, Any], ParallelContext, torch.device], Shard]
"""Loads a rank's part from the group's arguments."""


def find_loader(name: str) -> ShardLoader:
    """The function ``module:function``.

    Raises:
        ImportError, AttributeError: there is none.
    """
    module, _, function = name.partition(":")
    return cast(ShardLoader, getattr(importlib.import_module(module), function))


def pack(
    name: str, fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> tuple[Command, list[Buffer]]:
    """A command and the bytes of its tensors, copied from their device if need be."""
    specs: list[tuple[str, str, tuple[int, ...]]] = []
    data: list[Buffer] = []
    for key, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        specs.append((key, str(held.dtype).removeprefix("torch."), tuple(held.shape)))
        array: Any = held.reshape(-1).view(torch.uint8).numpy()
        data.append(memoryview(array))
    return Command(name, dict(fields), tuple(specs)), data


def unpack(command: Command, data: bytearray, device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of a command; on the processor they share the memory of ``data``.

    Raises:
        ValueError: the bytes are more or fewer than the shapes say, or a dtype is unknown.
    """
    tensors, first = {}, 0
    for name, kind, shape in command.tensors:
        dtype = getattr(torch, kind, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"the dtype {kind!r} of {name!r} is unknown")
        tensor = torch.empty(shape, dtype=dtype)
        last = first + tensor.nbytes
        if last > len(data):
            raise ValueError(f"{name!r} is cut off")
        if tensor.nbytes:
            tensor = torch.frombuffer(data, dtype=torch.uint8, count=last - first, offset=first)
            # Copied where the offset does not suit the dtype.
            aligned = tensor if first % dtype.itemsize == 0 else tensor.clone()
            tensor = aligned.view(dtype).view(shape)
        tensors[name], first = tensor.to(device), last
    if first != len(data):
        raise ValueError(f"{len(data) - first} bytes belong to no tensor")
    return tensors
