"""Sizes of tiles by kernel, GPU and shape: read from data, with a default for an unknown GPU.

Why it exists: the best tile differs by GPU and shape and is found by measuring (``python -m
deepseek_kernels.tuning``), so it is data. ``configs/default.json`` holds values chosen by
arithmetic that fit every supported GPU; a file of a GPU's name replaces kernels and adds measured
shapes. Files in the folder named by ``DEEPSEEK_KERNEL_CONFIGS`` win over the packaged ones.

A file::

    {"gpu": "...", "source": "how the values were found",
     "kernels": {"w4a16_gemv": [{"max_m": 8, "config": {"block_n": 8, ...}}]},
     "measured": [{"kernel": "w4a16_gemv", "m": 1, "n": 4096, "k": 4096, "config": {...},
                   "microseconds": 9.0, "dense_microseconds": 15.0}]}
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepseek_kernels.errors import KernelArgumentError

__all__ = [
    "FOLDER_VARIABLE",
    "KernelConfig",
    "Measurement",
    "Table",
    "config_for",
    "gpu_slug",
    "load_table",
    "table_for",
]

FOLDER_VARIABLE = "DEEPSEEK_KERNEL_CONFIGS"
_PACKAGED = Path(__file__).parent / "configs"


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """Tile sizes and launch options; a kernel reads those that it has.

    Sizes count elements of the product ``[M, N]`` and of K.
    """

    block_m: int = 16
    block_n: int = 64
    block_k: int = 128
    split_k: int = 1
    """Parts into which K is divided; 0: as many as fill the GPU."""
    group_m: int = 8
    """Rows of tiles that run together, so that they find each other's weights in the cache."""
    num_warps: int = 4
    num_stages: int = 3

    def __post_init__(self) -> None:
        for name in ("block_m", "block_n", "block_k", "num_warps"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise KernelArgumentError(f"{name}: {value} is no power of 2; give one")
        if self.split_k < 0 or self.group_m < 1 or self.num_stages < 1:
            raise KernelArgumentError(
                "split_k, group_m, num_stages: are too small; give 0, 1 and 1 at least"
            )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> KernelConfig:
        """Make one from a file's object; unknown names are refused.

        Raises:
            KernelArgumentError: an unknown name or an impossible value.
        """
        if unknown := set(fields) - {field.name for field in dataclasses.fields(cls)}:
            raise KernelArgumentError(f"config: unknown names {sorted(unknown)}; remove them")
        return cls(**fields)

    def parts(self, tiles: int, steps: int, processors: int) -> int:
        """Parts of K for a product of ``tiles`` tiles and ``steps`` steps along K.

        0 becomes the power of 2 that gives each processor about two tiles; never more than steps.
        """
        wanted = self.split_k
        if wanted == 0:
            wanted = 1
            while wanted < 16 and tiles * wanted < 2 * processors:
                wanted *= 2
        return max(1, min(wanted, steps))


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the tuner found for one kernel and shape."""

    kernel: str
    m: int
    n: int
    k: int
    config: KernelConfig
    microseconds: float
    dense_microseconds: float
    """The product of the same shape with 16-bit weights, measured beside it."""
    dequantize_microseconds: float = 0.0
    """Making those 16-bit weights from the quantized ones."""


@dataclass(frozen=True)
class Table:
    """Everything known about one GPU."""

    gpu: str
    source: str
    kernels: Mapping[str, tuple[tuple[int, KernelConfig], ...]]
    """For each kernel configurations with the largest M that they are for, ascending."""
    measured: tuple[Measurement, ...] = ()

    def measurement(self, kernel: str, m: int, n: int, k: int) -> Measurement | None:
        """The measurement of this N and K whose M is the next one at or above ``m``."""
        same = [e for e in self.measured if (e.kernel, e.n, e.k) == (kernel, n, k) and e.m >= m]
        return min(same, key=lambda entry: entry.m, default=None)

    def config(self, kernel: str, m: int, n: int, k: int) -> KernelConfig:
        """The measured configuration of a shape, else the kernel's for this M.

        Raises:
            KernelArgumentError: a kernel of that name is not in the table.
        """
        if found := self.measurement(kernel, m, n, k):
            return found.config
        if kernel not in self.kernels:
            raise KernelArgumentError(f"kernel: {kernel!r} has no configuration; add one")
        entries = self.kernels[kernel]
        return next((config for max_m, config in entries if m <= max_m), entries[-1][1])


def config_for(kernel: str, m: int, n: int, k: int, device: torch.device) -> KernelConfig:
    """The configuration for a product ``[m, k] x [k, n]`` on ``device``."""
    return table_for(device).config(kernel, m, n, k)


def table_for(device: torch.device) -> Table:
    """The table of the device's GPU; the default for CPUs and unknown GPUs."""
    if device.type != "cuda":
        return load_table("default")
    index = torch.cuda.current_device() if device.index is None else device.index
    return load_table(gpu_slug(_device_name(index)))


def gpu_slug(name: str) -> str:
    """File name of a GPU: ``NVIDIA H100 80GB HBM3`` -> ``h100``, an unknown one in full."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    model = re.search(r"\b([abhlv]\d{2,3}s?|gh200|gb200|rtx-\d{4}(?:-ti)?)\b", words)
    return model.group(1) if model else words or "default"


@functools.cache
def _device_name(index: int) -> str:
    return torch.cuda.get_device_name(index)


def load_table(gpu: str) -> Table:
    """The table of a GPU by the name of its file: packaged, and the user's folder over it.

    Raises:
        KernelArgumentError: a file is not what the module describes; it names the file.
    """
    return _load(gpu, os.environ.get(FOLDER_VARIABLE, ""))


@functools.lru_cache(maxsize=32)
def _load(gpu: str, folder: str) -> Table:
    table = _read(_PACKAGED / "default.json")
    places = [_PACKAGED / f"{gpu}.json"] + ([Path(folder) / f"{gpu}.json"] if folder else [])
    for path in dict.fromkeys(places):
        if path.exists() and path != _PACKAGED / "default.json":
            found = _read(path)
            merged = {**table.kernels, **found.kernels}
            table = Table(found.gpu, found.source, merged, found.measured + table.measured)
    return table


def _read(path: Path) -> Table:
    try:
        content = json.loads(path.read_text())
        kernels = {
            kernel: tuple(
                sorted(
                    ((int(e["max_m"]), KernelConfig.from_json(e["config"])) for e in entries),
                    key=lambda entry: entry[0],
                )
            )
            for kernel, entries in content["kernels"].items()
        }
        measured = tuple(
            Measurement(**entry | {"config": KernelConfig.from_json(entry["config"])})
            for entry in content.get("measured", ())
        )
        return Table(str(content["gpu"]), str(content["source"]), kernels, measured)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KernelArgumentError(
            f"{path.name}: is no table of kernel configurations ({error}); "
            "write it with python -m deepseek_kernels.tuning"
        ) from error
