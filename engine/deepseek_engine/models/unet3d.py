"""3D-UNet: one score for each class and voxel of a volume.

Why it exists: segmentation of CT and MR volumes is served by U-shaped networks whose published form
is the "plain convolutional U-Net" of nnU-Net (Isensee et al., Nature Methods 18, 2021), a refined
3D U-Net (Cicek et al., arXiv:1606.06650). Two 3x3x3 convolutions a level, each followed by a norm
and an activation; the first of a level halves the volume; the way up doubles it by a transposed
convolution and joins what the same level of the way down has seen. It must not be used for
training recipes: there is no deep supervision and no dropout.

Names of the tensors (``i`` counts from the finest level, ``L`` levels; ``C[i]`` channels)::

    encoder.i.conv1.weight  [C[i], C[i-1], 3, 3, 3]   C[-1] = in_channels, stride 2 from i = 1 on
    encoder.i.conv2.weight  [C[i], C[i], 3, 3, 3]
    up.i.weight             [C[i+1], C[i], 2, 2, 2]   i = 0 .. L-2, stride 2
    decoder.i.conv1.weight  [C[i], 2 C[i], 3, 3, 3]   input: up.i, then encoder.i
    decoder.i.conv2.weight  [C[i], C[i], 3, 3, 3]
    *.norm1.*, *.norm2.*    weight and bias [C[i]]; with batch norm also running_mean, running_var
    head.weight, head.bias  [classes, C[0], 1, 1, 1], [classes]

Convolutions before a norm have no bias: the norm's own does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, Self

import torch
from torch import nn

__all__ = ["UNet3d", "UNet3dConfig"]

SLOPE = 0.01
"""Of the leaky rectifier below zero, as in nnU-Net."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UNet3dConfig:
    """Everything that the tensors' shapes depend on."""

    in_channels: int = 1
    """Modalities of a volume."""
    classes: int = 2
    """Scores a voxel; class 0 is the background."""
    channels: tuple[int, ...] = (8, 16, 32, 64)
    """Channels of each level, the finest first."""
    norm: Literal["instance", "batch"] = "instance"
    """``instance``: statistics of the volume itself; ``batch``: those of the training."""
    activation: Literal["leaky_relu", "relu"] = "leaky_relu"

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Read the fields of a ``config.json``; others are left alone.

        Raises:
            ValueError: a value is not possible; the message names the field.
        """
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        if "channels" in known:
            known["channels"] = tuple(_counts(known["channels"]))
        config = cls(**known)
        for name in ("in_channels", "classes"):
            _positive(name, getattr(config, name))
        if not 1 <= len(config.channels) <= 8:
            raise ValueError(f"channels has {len(config.channels)} levels, 1 to 8 are possible")
        if config.norm not in ("instance", "batch"):
            raise ValueError(f"norm is {config.norm!r}, and 'instance' and 'batch' are known")
        if config.activation not in ("leaky_relu", "relu"):
            raise ValueError(
                f"activation is {config.activation!r}, and 'leaky_relu' and 'relu' are known"
            )
        return config

    @property
    def multiple(self) -> int:
        """What every side of a volume must be a multiple of, in voxels."""
        return 1 << (len(self.channels) - 1)

    def to_fields(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return asdict(self) | {"channels": list(self.channels)}


class UNet3d(nn.Module):
    """Volumes ``[N, in_channels, D, H, W]`` to scores ``[N, classes, D, H, W]``.

    D, H and W are multiples of `UNet3dConfig.multiple`.
    """

    def __init__(self, config: UNet3dConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.channels
        before = (config.in_channels, *sizes[:-1])
        self.encoder = nn.ModuleList(
            _Level(before[i], size, config, stride=1 if i == 0 else 2)
            for i, size in enumerate(sizes)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, kernel_size=2, stride=2, bias=False)
            for fine, coarse in pairwise(sizes)
        )
        self.decoder = nn.ModuleList(_Level(2 * size, size, config) for size in sizes[:-1])
        self.head = nn.Conv3d(sizes[0], config.classes, kernel_size=1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Scores before any softmax."""
        seen = []
        x = volume
        for level in self.encoder:
            x = level(x)
            seen.append(x)  # [N, C[i], D / 2^i, H / 2^i, W / 2^i]
        for i in reversed(range(len(self.decoder))):
            x = torch.cat([self.up[i](x), seen[i]], dim=1)
            x = self.decoder[i](x)
        scores: torch.Tensor = self.head(x)
        return scores


class _Level(nn.Module):
    """Convolution, norm, activation, twice."""

    def __init__(self, before: int, size: int, config: UNet3dConfig, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, size, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(size, config)
        self.conv2 = nn.Conv3d(size, size, 3, padding=1, bias=False)
        self.norm2 = _norm(size, config)
        self.activation = nn.LeakyReLU(SLOPE) if config.activation == "leaky_relu" else nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.norm1(self.conv1(x)))
        y: torch.Tensor = self.activation(self.norm2(self.conv2(x)))
        return y


def _norm(size: int, config: UNet3dConfig) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm3d(size)
    return nn.InstanceNorm3d(size, affine=True)


def _counts(values: Any) -> list[int]:
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"channels is {values!r}, a list of numbers is needed")
    return [_positive("channels", value) for value in values]


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096:
        raise ValueError(f"{name} is {value!r}, a whole number from 1 to 4096 is needed")
    return value
